"""What a pass may touch: every answer errs on the side of leaving things alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import einfx
from einfx.graphs.shapes import propagate
from einfx.legality import OUTSIDE, Effects, is_layout_free, same_floating_dtype, scalar_factor, use_count
from einfx.passes import FuseEinsums

Program = Callable[..., Any]


@fx.wrap
def unknown_function(x: Any) -> Any:
    """Could do anything with its argument."""
    return x


class Analysed:
    """A traced program, its effects, and its nodes by name."""

    def __init__(self, program: Program | nn.Module) -> None:
        self.traced = fx.symbolic_trace(program)
        self.effects = Effects(self.traced.graph, self.traced)
        self.nodes = {node.name: node for node in self.traced.graph.nodes}

    def __getitem__(self, name: str) -> fx.Node:
        return self.nodes[name]


# Which memory a value may share


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: a.view(-1),
        lambda a, b: a.t(),
        lambda a, b: a[0],
        lambda a, b: a.detach(),
        lambda a, b: a.reshape(-1),
        lambda a, b: a.contiguous(),
        lambda a, b: torch.permute(a, (1, 0)),
        lambda a, b: a.expand(2, 3, 3),
        lambda a, b: a.to(torch.float64),
        lambda a, b: torch.einsum("ii->i", a),
        lambda a, b: a.T,
        lambda a, b: a.add_(1),
        lambda a, b: torch.mul(a, b, out=a),
        lambda a, b: F.relu(a, inplace=True),
        lambda a, b: F.dropout(a),
        lambda a, b: a.unbind(0)[0],
        lambda a, b: unknown_function(a),
    ],
)
def test_a_value_that_may_be_a_view_of_an_input_shares_its_memory(program: Program) -> None:
    analysed = Analysed(program)
    last = list(analysed.nodes.values())[-2]
    assert OUTSIDE in analysed.effects.memory_of(last)


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: 2 * a,
        lambda a, b: a.exp(),
        lambda a, b: torch.einsum("ij,jk->ik", a, b),
        lambda a, b: torch.cat([a, b]),
        lambda a, b: a.clone(),
        lambda a, b: F.linear(a, b),
        lambda a, b: F.softmax(a, dim=0),
        lambda a, b: a.sum(0),
    ],
)
def test_a_computed_value_is_memory_of_its_own(program: Program) -> None:
    analysed = Analysed(program)
    last = list(analysed.nodes.values())[-2]
    assert analysed.effects.memory_of(last) == {last}


def test_views_of_a_computed_value_share_its_memory() -> None:
    analysed = Analysed(lambda a: (2 * a).t().reshape(-1))
    assert analysed["mul"] in analysed.effects.memory_of(analysed["reshape"])


def test_pythons_sum_of_one_tensor_may_be_that_tensor() -> None:
    graph = fx.Graph()
    a = graph.placeholder("a")
    total = graph.call_function(sum, ([a],))
    graph.output(total)
    assert OUTSIDE in Effects(graph).memory_of(total)


# Writes


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: a.add_(b),
        lambda a, b: torch.add(b, 1, out=a),
        lambda a, b: F.dropout(a, 0.5, True, True),
        lambda a, b: torch.ops.aten.add_.Tensor(a, b),
        lambda a, b: F.batch_norm(b, a, a, training=True),
    ],
)
def test_a_program_with_a_write_is_not_pure(program: Program) -> None:
    assert not Analysed(program).effects.pure


@pytest.mark.parametrize(
    "program",
    [lambda a, b: a.add(b), lambda a, b: F.relu(a), lambda a, b: torch.mul(a, b), lambda a, b: a.__add__(b)],
)
def test_operations_that_only_compute_write_nothing(program: Program) -> None:
    assert Analysed(program).effects.pure


def read_across(program: Program) -> bool:
    """Whether ``a``, read by the first node of a program, may be read by its last instead."""
    analysed = Analysed(program)
    computing = [node for node in analysed.nodes.values() if node.op.startswith("call")]
    return analysed.effects.may_move_reads([analysed["a"]], computing[0], computing[-1])


def test_a_read_moves_where_nothing_is_written() -> None:
    assert read_across(lambda a, b: (2 * a) @ b)


@pytest.mark.parametrize("write", [lambda a, b: a.add_(1), lambda a, b: a.t().add_(1)])
def test_a_read_never_moves_over_a_write_to_the_same_memory(write: Program) -> None:
    def program(a: Any, b: Any) -> Any:
        scaled = 2 * a
        write(a, b)
        return scaled @ b

    assert not read_across(program)


def test_a_write_to_one_input_is_a_write_to_all_since_they_may_be_one_tensor() -> None:
    def program(a: Any, b: Any) -> Any:
        scaled = 2 * a
        b.add_(1)
        return scaled.exp()

    assert not read_across(program)


def test_a_write_to_a_computed_value_is_no_write_to_an_input() -> None:
    def program(a: Any, b: Any) -> Any:
        scaled = 2 * a
        scaled.add_(1)
        return scaled @ b

    assert read_across(program)
    analysed = Analysed(program)
    assert analysed.effects.is_mutated(analysed["mul"])
    assert not analysed.effects.is_mutated(analysed["a"])


def test_an_unknown_function_may_write_to_anything_and_keep_its_arguments() -> None:
    def program(a: Any, b: Any) -> Any:
        scaled = 2 * a
        unknown_function(b.exp())
        return scaled @ b

    assert not read_across(program)
    analysed = Analysed(program)
    assert analysed.effects.is_mutated(analysed["mul"])
    assert analysed.effects.escapes(analysed["exp"])
    assert not analysed.effects.escapes(analysed["mul"])


# Escapes


def test_what_is_returned_escapes_and_so_does_what_it_is_a_view_of() -> None:
    def program(a: Any, b: Any) -> Any:
        product, other = a @ b, a + b
        return product.t(), other.exp()

    analysed = Analysed(program)
    assert analysed.effects.escapes(analysed["matmul"])
    assert not analysed.effects.escapes(analysed["add"])


def test_a_new_node_takes_the_place_of_an_old_one() -> None:
    def program(a: Any, b: Any) -> Any:
        product = a @ b
        a.add_(1)
        return product

    analysed = Analysed(program)
    graph = analysed.traced.graph
    with graph.inserting_before(analysed["matmul"]):
        new = graph.call_function(torch.matmul, (analysed["a"], analysed["b"]))
    analysed.effects.adopt(new, analysed["matmul"])
    assert analysed.effects.memory_of(new) == {new}
    assert analysed.effects.escapes(new)
    assert not analysed.effects.may_move_reads([analysed["a"]], new, analysed["add_"])


# Modules


class Holder(nn.Module):
    """A leaf module under a name that is also an operation's."""

    def __init__(self, module: nn.Module, read_state: bool = False) -> None:
        super().__init__()
        self.mul = module
        self.read_state = read_state

    def forward(self, x: torch.Tensor) -> Any:
        y = self.mul(x.exp())
        return (y, self.mul.running_mean) if self.read_state else y


def test_a_linear_layer_makes_new_memory_and_writes_nothing() -> None:
    analysed = Analysed(Holder(nn.Linear(3, 3)))
    assert analysed.effects.memory_of(analysed["mul"]) == {analysed["mul"]}
    assert analysed.effects.pure


def test_a_layer_that_works_in_place_writes_to_its_argument() -> None:
    analysed = Analysed(Holder(nn.ReLU(inplace=True)))
    assert analysed.effects.is_mutated(analysed["exp"])


def test_a_layer_with_hooks_may_write_to_anything() -> None:
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *arguments: None)
    analysed = Analysed(Holder(layer))
    assert analysed.effects.is_mutated(analysed["x"])


def test_batch_norm_writes_to_its_statistics_where_the_program_reads_them() -> None:
    assert Analysed(Holder(nn.BatchNorm1d(3))).effects.pure
    tracer = fx.Tracer()
    tracer.proxy_buffer_attributes = True
    model = Holder(nn.BatchNorm1d(3), read_state=True)
    graph = tracer.trace(model)
    effects = Effects(graph, model)
    read = next(node for node in graph.nodes if node.op == "get_attr")
    assert effects.is_mutated(read)


def test_a_module_of_somebody_else_may_do_anything() -> None:
    class Custom(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Custom)

    model = Holder(Custom())
    graph = Tracer().trace(model)
    effects = Effects(graph, model)
    nodes = {node.name: node for node in graph.nodes}
    assert effects.is_mutated(nodes["exp"])
    assert effects.is_mutated(nodes["x"])


# Counts, dtypes, factors, strides


@pytest.mark.parametrize(
    ("program", "uses"),
    [
        (lambda a: a.exp(), 1),
        (lambda a: a * a, 2),
        (lambda a: torch.cat([a, a, a]), 3),
        (lambda a: (a.exp(), a), 2),
        (lambda a: torch.add(a, other=a), 2),
        (lambda a: 3, 0),
    ],
)
def test_uses_are_edges_and_not_users(program: Program, uses: int) -> None:
    assert use_count(Analysed(program)["a"]) == uses


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.float32, torch.float32), True),
        ((torch.complex64, torch.complex64), True),
        ((torch.float32, torch.float64), False),
        ((torch.int64, torch.int64), False),
        ((torch.bool, torch.bool), False),
        ((torch.float32, torch.complex64), False),
    ],
)
def test_one_floating_dtype_is_asked_of_all(dtypes: tuple[torch.dtype, ...], expected: bool) -> None:
    traced = fx.symbolic_trace(lambda a, b: (a, b))
    propagate(traced, [torch.ones(3, dtype=dtype) for dtype in dtypes])
    assert same_floating_dtype(list(traced.graph.nodes)[:2]) is expected


def test_values_that_are_unknown_have_no_common_dtype() -> None:
    assert not same_floating_dtype(list(fx.symbolic_trace(lambda a, b: (a, b)).graph.nodes)[:2])
    assert not same_floating_dtype([])


@pytest.mark.parametrize(
    ("number", "dtype", "expected"),
    [
        (2, torch.float32, True),
        (-0.5, torch.float32, True),
        (1e20, torch.float32, True),
        (1e40, torch.float32, False),
        (1e-40, torch.float32, False),
        (1e40, torch.float64, True),
        (0, torch.float32, False),
        (float("inf"), torch.float64, False),
        (float("nan"), torch.float64, False),
        (True, torch.float32, False),
        (2, torch.int64, False),
        (2, torch.bool, False),
        (2j, torch.float32, False),
        (2j, torch.complex64, True),
        (1e5, torch.float16, False),
        (10**400, torch.float64, False),
        ("2", torch.float32, False),
    ],
)
def test_a_factor_is_finite_normal_and_keeps_the_dtype(
    number: Any, dtype: torch.dtype, expected: bool
) -> None:
    assert scalar_factor(number, dtype) is expected


@pytest.mark.parametrize(
    ("program", "free"),
    [
        (lambda a, b: torch.einsum("ij,jk->ik", a.exp(), b), True),
        (lambda a, b: a.exp(), False),
        (lambda a, b: a.exp().view(-1), False),
        (lambda a, b: torch.einsum("ij->ji", a.exp()), False),
    ],
)
def test_strides_are_free_where_only_contractions_read_them(program: Program, free: bool) -> None:
    assert is_layout_free(Analysed(program)["exp"]) is free


# Contractions over semirings


def over_log(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum("ij,jk->ik", a, b, semiring="log", grad_of_neg_inf=0.0)
    return result


def test_a_contraction_over_a_semiring_writes_to_nothing_and_is_memory_of_its_own() -> None:
    seen = Analysed(lambda a, b: over_log(a, b).exp())
    assert seen.effects.pure
    assert seen.effects.memory_of(seen["einsum"]) == {seen["einsum"]}
    assert not seen.effects.escapes(seen["a"])


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: einfx.einsum("ij->ji", a, semiring="log"),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="max_plus", return_argmax=True),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="log", optimize="greedy"),
    ],
)
def test_what_may_return_an_operand_or_is_not_read_may_share_memory(program: Program) -> None:
    seen = Analysed(program)
    assert OUTSIDE in seen.effects.memory_of(seen["einsum"])
    assert seen.effects.pure


def test_reads_of_a_contraction_over_a_semiring_stay_before_writes() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = over_log(a, b)
        a.mul_(2)
        return over_log(t, b)

    seen = Analysed(program)
    first, second = seen["einsum"], seen["einsum_1"]
    assert not seen.effects.may_move_reads([seen["a"]], first, second)
    traced = fx.symbolic_trace(program)
    propagate(traced, (torch.rand(3, 3), torch.rand(3, 3)))
    assert FuseEinsums().apply(traced) == 0


def test_only_contractions_that_make_memory_of_their_own_hide_strides() -> None:
    hidden = Analysed(lambda a, b: over_log(a.exp(), b))
    assert is_layout_free(hidden["exp"])
    seen = Analysed(lambda a, b: einfx.einsum("ij->ji", a.exp(), semiring="log"))
    assert not is_layout_free(seen["exp"])
