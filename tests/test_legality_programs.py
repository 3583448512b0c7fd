"""Programs in which a careless rewrite changes what is read, written, rounded or seen."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import einfx
from einfx.errors import CaptureError
from tests.equivalence import assert_same_effects, check_optimised, observe
from tests.program import OPERATOR, tensor
from tests.rewriting import assert_same

E = torch.einsum
A, B, C = tensor((3, 3), seed=1), tensor((3, 3), seed=2), tensor((3, 3), seed=3)


def write_a_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    t = E("ij,jk->ik", b, b)
    a.mul_(2)
    return E("ij,jk->ik", t, b) + E("ij,jk->ik", b, b)


def write_both(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    t = 3 * b
    a[0].add_(1)
    u = E("ij,jk->ik", t, a)
    b.neg_()
    return 2 * u @ a, t, E("ij,jk->ik", a, b)


@pytest.mark.parametrize("program", [write_a_between, write_both])
@pytest.mark.parametrize("how", ["the same", "transposed", "overlapping", "a row"])
def test_inputs_that_share_memory_at_call_time_are_read_as_in_eager_mode(
    program: Callable[..., Any], how: str
) -> None:
    optimised = einfx.optimize(program, (A, B))
    observed = []
    for function in (program, optimised):
        memory = tensor((4, 3), seed=9)
        second = {
            "the same": memory[:3],
            "transposed": memory[:3].T,
            "overlapping": memory[1:],
            "a row": memory[1:2].expand(3, 3),
        }[how]
        observed.append(observe(function, [memory[:3], second]))
    expected, got = observed
    if expected.error is not None:
        assert got.error is not None, "writing to an expanded tensor fails in eager mode"
        return
    got.state = {}
    assert_same_effects(got, expected)


class Memory(nn.Module):
    """Writes to a buffer between two reads of an argument that may be that buffer."""

    memory: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", B.clone())
        self.weight = nn.Parameter(C.clone())

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        before = 2 * E("ij,jk->ik", a, self.weight)
        self.memory.add_(1)
        after = 2 * E("ij,jk->ik", a, self.weight)
        return E("ij,jk->ik", before, after) + self.memory


def test_an_argument_that_is_a_buffer_of_the_module_is_read_anew_after_the_buffer_was_written() -> None:
    original = Memory()
    optimised = copy.deepcopy(einfx.optimize(original, (A,)))
    with torch.no_grad():
        assert_same(optimised(optimised.memory), original(original.memory))
        assert_same(optimised(optimised.memory.T), original(original.memory.T))
        assert_same(optimised(A), original(A))
    assert_same(optimised.memory, original.memory)


def test_buffers_of_a_batch_norm_move_once_for_each_call_and_never_while_optimising() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm: Any = nn.BatchNorm1d(3, dtype=torch.float64)
            self.weight = nn.Parameter(B.clone())

        def forward(self, a: torch.Tensor) -> torch.Tensor:
            mean = 2 * self.norm.running_mean
            return self.norm(E("ij,jk->ik", 2 * a, self.weight)) + mean + 3 * self.norm.running_mean

    original = Model()
    optimised = copy.deepcopy(einfx.optimize(original, (A,)))
    assert int(original.norm.num_batches_tracked) == 0
    for train in (True, True, False):
        original.train(train)
        optimised.train(train)
        assert_same(optimised(A), original(A))
        assert_same(dict(optimised.state_dict()), dict(original.state_dict()))
    check_optimised(Model(), A, gradients=True)


def mutated_view(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = E("ij,jk->ik", a, b)
    row = t[0]
    row.mul_(3)
    return E("ij,jk->ik", t, b), row


def mutated_base(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = 2 * a
    view = t.T
    t.add_(b)
    return E("ij,jk->ik", view, b) * 3


def mutated_after_scaling(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = 2 * a
    u = E("ij,jk->ik", t, b)
    t.zero_()
    return u, t


def mutated_diagonal(a: torch.Tensor, b: torch.Tensor) -> Any:
    diagonal = E("ii->i", a)
    a.mul_(2)
    return E("i,ij->ij", diagonal, b)


def mutated_transpose_of_an_einsum(a: torch.Tensor, b: torch.Tensor) -> Any:
    flipped = E("ij->ji", a)
    flipped.add_(b)
    return E("ij,jk->ik", a, b), flipped


def copied_over(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = a @ b
    a.copy_(t)
    return (a @ b) * 2


def given_out(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = 2 * (a @ b)
    torch.mul(t, 3, out=a)
    return E("ij,jk->ik", t, a)


def given_out_of_a_matmul(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = E("ij,jk->ik", a, b)
    torch.mm(t, b, out=a)
    return t @ b, a @ b


def accumulated(a: torch.Tensor, b: torch.Tensor) -> Any:
    total = torch.zeros_like(a)
    for _ in range(3):
        total.add_(E("ij,jk->ik", a, b) * 2)
    return total


def assigned_items(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = a @ b
    OPERATOR.setitem(t, 0, 1.5)
    OPERATOR.setitem(t, (slice(None), 1), b[0])
    return E("ij,jk->ik", t, b) * 2


def augmented(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = a @ b
    OPERATOR.imul(a, 2)
    OPERATOR.iadd(t, a)
    return E("ij,jk->ik", t, b) / 3, a @ b


def shared_then_mutated(a: torch.Tensor, b: torch.Tensor) -> Any:
    t, u = a @ b, E("ij,jk->ik", a, b)
    t.add_(1)
    return t, u


def shared_and_both_returned(a: torch.Tensor, b: torch.Tensor) -> Any:
    return a @ b, torch.mm(a, b), E("ij,jk->ik", a, b)


def resized_view(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = E("ij,jk->ik", a, b).t_().unsqueeze_(0)
    return t * 2, E("bij,jk->bik", t, b)


def chunks(a: torch.Tensor, b: torch.Tensor) -> Any:
    first, second = (2 * a)[:2].chunk(2)
    first.mul_(5)
    return first @ b, second @ b


def relu_in_place(a: torch.Tensor, b: torch.Tensor) -> Any:
    t = a @ b
    u = F.relu(t, inplace=True)
    return E("ij,jk->ik", t, b), 2 * u


MUTATING = [
    mutated_view, mutated_base, mutated_after_scaling, mutated_diagonal, mutated_transpose_of_an_einsum,
    copied_over, given_out, given_out_of_a_matmul, accumulated, assigned_items, augmented,
    shared_then_mutated, shared_and_both_returned, resized_view, chunks, relu_in_place,
]  # fmt: skip


@pytest.mark.parametrize("program", MUTATING, ids=lambda f: f.__name__)
def test_values_written_in_place_are_read_and_left_as_in_eager_mode(program: Callable[..., Any]) -> None:
    check_optimised(program, A, B)


def test_gradients_exist_wherever_eager_mode_has_them_although_an_operand_is_overwritten() -> None:
    """In eager mode autograd saves the scaled copies, not ``a``; a fused form that saved ``a`` would fail."""

    def scaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = 2 * a
        u = E("ij,jk->ik", t, b)
        a.mul_(0)
        return u * 3

    def transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = a / 3
        u = t @ b.clone()
        b.zero_()
        return E("ij,jk->ik", u, u)

    check_optimised(scaled, A, B, gradients=True)
    check_optimised(transposed, A, B, gradients=True)


def test_an_assignment_that_augments_an_input_either_writes_it_or_says_that_it_cannot() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a += 1
        return E("ij,jk->ik", a, b)

    def item(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a[0] = 1
        return E("ij,jk->ik", a, b)

    for function in (program, item):
        try:
            optimised = einfx.optimize(function, (A, B))
        except CaptureError as error:
            message = str(error)
        else:
            a, expected = A.clone(), A.clone()
            assert_same(optimised(a, B), function(expected, B))
            assert_same(a, expected)
            continue
        assert "test_legality_programs.py" in message


@fx.wrap
def double_in_place(x: torch.Tensor) -> torch.Tensor:
    """A function that no pass can know; it writes and returns its argument."""
    return x.mul_(2)


@fx.wrap
def keep(x: torch.Tensor) -> torch.Tensor:
    """A function that no pass can know; it returns what shares memory with its argument."""
    return x[:2]


def test_an_unknown_function_may_write_to_what_it_is_given() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> Any:
        t = E("ij,jk->ik", a, b)
        u = 3 * a
        double_in_place(t)
        double_in_place(a)
        return E("ij,jk->ik", t, u), E("ij,jk->ik", a, b), E("ij,jk->ik", a, b)

    check_optimised(program, A, B)


def test_an_unknown_function_may_return_what_shares_memory_with_its_argument() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> Any:
        part = keep(a)
        t = E("ij,jk->ik", a, b)
        part.add_(1)
        return E("ij,jk->ik", t, b), E("ij,jk->ik", a, b)

    check_optimised(program, A, B)


def test_an_unknown_function_is_called_as_often_and_in_the_same_order_as_in_eager_mode() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> Any:
        logged(a, 1)
        t = E("ij,jk->ik", a, b)
        logged(a, 2)
        u = E("ij,jk->ik", a, b)
        logged(a, 2)
        return t @ u

    optimised = einfx.optimize(program, (A, B))
    LOG.clear()
    assert_same(optimised(A, B), torch.linalg.multi_dot([A, B, A, B]))
    assert LOG == [1, 2, 2]


LOG: list[int] = []


@fx.wrap
def logged(_: torch.Tensor, number: int) -> None:
    """A function with an effect outside the program."""
    LOG.append(number)


def test_an_attribute_that_shares_memory_with_an_input_is_written_and_read_in_order() -> None:
    class Model(nn.Module):
        view: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("view", A.clone())

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
            t = 2 * self.view
            a.add_(1)
            return E("ij,jk->ik", t, b), E("ij,jk->ik", self.view, b), operator.mul(self.view, 2)

    original, shared = Model(), A.clone()
    optimised = copy.deepcopy(einfx.optimize(original, (A, B)))
    original.view = shared
    other = shared.clone()
    optimised.view = other
    assert_same(optimised(other, B), original(shared, B))
