"""Programs that opt_einsum_fx turns into others, silently or with an error, are right here."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

import einfx
from tests.equivalence import check_optimised
from tests.program import tensor
from tests.rewriting import assert_same

E = torch.einsum
A, B, C = tensor((3, 3), seed=1), tensor((3, 3), seed=2), tensor((3, 3), seed=3)
MASK = tensor((3, 3), torch.int64, seed=4)


def test_a_scaled_denominator_is_divided_by_and_not_multiplied_with() -> None:
    check_optimised(lambda a, b: b / (2.0 * a), A, B, gradients=True)
    check_optimised(lambda a, b: E("ij,jk->ik", b / (2.0 * a), b), A, B, gradients=True)
    check_optimised(lambda a, b: E("ij,jk->ik", b, a) / (2.0 * a), A, B, gradients=True)


def test_a_scale_counts_once_for_every_use_of_the_scaled_value() -> None:
    def product(a: torch.Tensor) -> torch.Tensor:
        t = 2 * a
        return t * t

    def contraction(a: torch.Tensor) -> torch.Tensor:
        t = 2 * a
        return E("ij,ij->i", t, t)

    def cube(a: torch.Tensor) -> torch.Tensor:
        t = a / 3
        return E("ij,jk,kl->il", t, t, t)

    for program in (product, contraction, cube):
        check_optimised(program, A, gradients=True)


def test_a_scale_beside_a_division_by_a_small_tensor_stays_in_the_numerator() -> None:
    check_optimised(lambda a, b, c: 2.0 * E("ij,jk->ik", a, b) / c, A, B, tensor((), seed=5), gradients=True)
    check_optimised(
        lambda a, b, c: 2.0 * E("ij,jk->ik", a, b) / c, A, B, tensor((1,), seed=5), gradients=True
    )
    check_optimised(lambda a, b, c: 3 * (E("ij,jk->ik", a, b) / c * 2), A, B, tensor((3,), seed=5))


def test_a_reciprocal_of_a_scaled_value_is_divided_by_the_scale() -> None:
    check_optimised(lambda a: E("ij->i", 3 / (2 * a)), A, gradients=True)
    check_optimised(lambda a: E("ij,jk->ik", (2 * a).reciprocal(), a), A, gradients=True)
    check_optimised(lambda a, b: E("ij,jk->ik", torch.div(3, 2 * a), b), A, B, gradients=True)


def test_a_scaled_value_that_something_else_reads_keeps_its_scale() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        s = 3 * a
        t = 2 * b
        return E("ij,jk->ik", s, t) + t.sum()

    check_optimised(program, A, B, gradients=True)


def test_a_division_that_rounds_still_rounds() -> None:
    check_optimised(lambda a: (a * 10).div(3, rounding_mode="floor"), A)
    check_optimised(lambda a: torch.div(a * 10, 3, rounding_mode="trunc"), A)
    check_optimised(lambda a: 2 * ((a * 10) // 3), A)
    check_optimised(lambda a, b: E("ij,jk->ik", torch.floor_divide(a * 10, 3), b) * 2, A, B)


def test_a_value_written_after_it_was_contracted_is_read_as_it_was() -> None:
    def contracted(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        t = E("ij,jk->ik", a, b)
        a.add_(1)
        return E("ij,jk->ik", t, c)

    def scaled(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        t = 2 * a
        a.add_(1)
        return 3 * E("ij,jk->ik", t, b)

    check_optimised(contracted, A, B, C)
    check_optimised(scaled, A, B, C, gradients=True)


def test_a_value_written_through_a_view_after_it_was_contracted_is_read_as_it_was() -> None:
    def view(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        row = a[0]
        t = E("ij,jk->ik", a, b)
        row.mul_(5)
        return E("ij,jk->ik", t, b)

    def transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = 2 * a.T
        a.view(-1).add_(1)
        return 3 * E("ij,jk->ik", t, b)

    def view_of_the_result(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = E("ij,jk->ik", a, b)
        t.flatten()[2:].zero_()
        return E("ij,jk->ik", t, b) * 2

    for program in (view, transposed, view_of_the_result):
        check_optimised(program, A, B)
    check_optimised(transposed, A, B, gradients=True)


class Halved(nn.Module):
    """A leaf module whose name in its parent says nothing about what it does."""

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return x[0] / 2 + 1


class LeavesHalved(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Halved) or super().is_leaf_module(m, module_qualified_name)


@pytest.mark.parametrize("name", ["mul", "truediv", "einsum", "matmul", "neg", "permute"])
def test_a_submodule_named_as_an_operation_is_still_that_module(name: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, Halved())

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return E("ij,jk->ik", 3 * getattr(self, name)(2 * a, 3), b)

    check_optimised(Model(), A, B, tracer=LeavesHalved)


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: 3 * a * 2,
        lambda a, b: 3 * E("ij,jk->ik", a, b) * 2,
        lambda a, b: E("ij,jk->ik", 3 * a, -b),
        lambda a, b: a * 3 / 2,
        lambda a, b: 4 * E("ij,ij->i", a, b) // 3,
        lambda a, b: (2 * a) @ (3 * b),
        lambda a, b: -torch.neg(a) * True,
        lambda a, b: 0.5 * E("ij,jk->ik", a, b) * 2,
        lambda a, b: E("ij->j", a * 2.0) * 3,
        lambda a, b: a.sum(0) * 2,
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_scaled_integers_and_booleans_keep_the_dtype_of_eager_mode(
    program: Callable[..., torch.Tensor], dtype: torch.dtype
) -> None:
    a, b = tensor((3, 3), dtype, seed=1), tensor((3, 3), dtype, seed=2)
    try:
        program(a, b)
    except RuntimeError:
        pytest.skip("not an operation of this dtype in eager mode")
    check_optimised(program, a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_mask_of_integers_keeps_dtype_and_precision_of_what_it_masks(dtype: torch.dtype) -> None:
    a = A.to(dtype)
    check_optimised(lambda a, m: 0.1 * (a * m), a, MASK)
    check_optimised(lambda a, m: (0.1 * m) * a, a, MASK)
    check_optimised(lambda a, m: E("ij,jk->ik", a * m, a) * 0.1, a, MASK)
    check_optimised(lambda a, m: E("ij,jk->ik", (m > 0) * a * 0.1, a) / 3, a, MASK)


def test_buffers_that_change_are_read_at_every_call() -> None:
    class Model(nn.Module):
        p: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("p", B.clone())
            self.register_buffer("q", C.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return E("ij,jk->ik", x, E("ij,jk->ik", self.p, self.q) * 2)

    original = Model()
    optimised = check_optimised(original, A)
    original.p.mul_(3)
    assert_same(optimised(A), original(A))
    optimised.load_state_dict({"p": A, "q": B})
    other = Model()
    other.load_state_dict({"p": A, "q": B})
    assert_same(optimised(A), other(A))


def test_ellipses_are_read() -> None:
    x, y = tensor((2, 4, 3), seed=1), tensor((3, 3), seed=2)
    check_optimised(lambda x, y: 2 * E("...i,ij->...j", E("...i,ij->...j", x, y), y), x, y, gradients=True)
    check_optimised(lambda x, y: E("...i,...i->...", x, E("...i,ij->...j", x, y)), x, y, gradients=True)
    check_optimised(lambda x, y: E("b...,...c", x, y), tensor((2, 3), seed=1), y)


def test_the_sublist_form_is_read() -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        t = E(x, [0, 1], y, [1, 2], [0, 2])
        return 2 * E(t, [..., 5], y, [5, 7])

    check_optimised(program, A, B, gradients=True)


def test_spaces_in_equations_that_are_fused_are_read() -> None:
    check_optimised(lambda x, y: E(" i j , j k -> i k ", E("ij, jk", x, y), y), A, B, gradients=True)


def test_a_fusion_of_more_than_26_labels_is_right() -> None:
    parts = [tensor((1, 2) * 2, seed=i) for i in range(8)]

    def program(*parts: torch.Tensor) -> Any:
        pairs = [E("abcd,efgh->abcdefgh", parts[i], parts[i + 1]) for i in range(0, 8, 2)]
        return [E("abcdefgh,ijklmnop->abcdefgijklmnop", pairs[i], pairs[i + 1]) for i in (0, 2)]

    check_optimised(program, *parts)


def test_a_fusion_of_more_than_52_labels_is_declined_and_right() -> None:
    parts = [tensor((1,) * 14, seed=i) for i in range(4)]
    letters = "abcdefghijklmnopqrstuvwxyzAB"

    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        left = E(f"{letters[:14]},{letters[14:]}->{letters}", a, b)
        right = E(f"{letters[:14]},{letters[14:]}->{letters}", c, d)
        return E(f"{letters},CDEFGHIJKLMNOPQRSTUVWXYZabcd->ef", left, right)

    check_optimised(program, *parts)


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("ij,jk->ik", a.mul(other=2.0), b) * 3,
        lambda a, b: E("ij,jk->ik", a / 0.0, b) * 3,
        lambda a, b: 3 * (E("ij,jk->ik", a, b) / 0.0) * 2,
        lambda a, b: 3 * E("ij,jk->ik", a * math.inf, b) * 2,
        lambda a, b: 0.0 * (3 * E("ij,jk->ik", a, b)),
        lambda a, b: E("ij,jk->ik", a * math.nan, b) * 2,
        lambda a, b: (2 * a).reshape(a.shape[0] * 2 * 2, -1),
        lambda a, b: E("ij,jk->ik", a, b).reshape(a.shape[0] // 2 * 2 * 2, -1) * 3,
        lambda a, b: E("ij,jk->ik", a, b).view(-1, a.size(-1) * 1),
        lambda a, b: E("ij,jk->ik", a, b).add_(1).mul_(3) @ b,
        lambda a, b: torch.linalg.inv(E("ij,jk->ik", a, b) + 10 * torch.eye(4, dtype=a.dtype)) @ (2 * b),
        lambda a, b: torch.linalg.qr(E("ij,jk->ik", a, b))[1].abs() * 3,
        lambda a, b: E("ij,jk->ik", a[:1], b[:, :1]) * 2 + E("ij,jk->ik", a[:, :1], b),
        lambda a, b: E("ij,jk->ik", E("ij,jk->ik", a[:, :1], b), b),
    ],
)
def test_what_fails_in_the_peer_runs_and_is_right(program: Callable[..., torch.Tensor]) -> None:
    check_optimised(program, tensor((4, 4), seed=1), tensor((4, 4), seed=2))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.float32, torch.float64),
        (torch.int64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bool, torch.float32),
        (torch.int32, torch.int64),
        (torch.complex64, torch.float64),
    ],
)
def test_mixed_dtypes_that_eager_mode_accepts_keep_their_result(
    first: torch.dtype, second: torch.dtype
) -> None:
    a, b = tensor((3, 3), first, seed=1), tensor((3, 3), second, seed=2)
    programs: list[Callable[..., torch.Tensor]] = [
        lambda a, b: 2 * a * b,
        lambda a, b: (a * b).sum(-1) * 3,
        lambda a, b: (a[:, :, None] * b).sum(1),
        lambda a, b: E("ij,jk->ik", a * b, a * b) * 3,
        lambda a, b: a * 2 + b * 3,
        lambda a, b: (3 * a) / b,
        lambda a, b: E(",ij->ij", a[0, 0], b) * 2,
    ]
    for program in programs:
        try:
            program(a, b)
        except RuntimeError:
            continue
        check_optimised(program, a, b)


def test_a_view_after_a_contraction_runs_wherever_it_runs_in_eager_mode() -> None:
    check_optimised(lambda a, b: E("ij,jk->ik", a, b).view(-1) * 2, A, B)
    check_optimised(lambda a, b: E("ji,jk->ik", E("ij,jk->ik", a, b), b).view(9), A, B)
    check_optimised(lambda a, b: (2 * a.contiguous()).view(-1) @ b.reshape(-1), A, B)
    x, w = tensor((2, 3, 4), seed=1), tensor((4, 3, 5), seed=2)
    check_optimised(lambda x, w: (E("bij,jio->bo", x, w) * 2).view(-1), x, w)
    check_optimised(lambda x, w: E("bij,jko->bko", x, w).reshape(-1).view(5, -1), x, w)
    check_optimised(lambda x, w: E("bij,jio->bo", x, w).as_strided((2, 2), (5, 1)) * 3, x, w)
    check_optimised(lambda x, w: E("bij,jio->oib", x, w).transpose(0, 2).view(2, -1), x, w)


def test_keyword_dims_of_permute_and_tensordot_script() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = torch.tensordot(a.permute(dims=(1, 0)), b, dims=1)
        return 2 * E("ij,jk->ik", t, b.permute(1, 0))

    optimised = check_optimised(program, A, B)
    scripted: Any = torch.jit.script(einfx.jitable(copy.deepcopy(optimised)))
    assert_same(scripted(A, B), program(A, B))
    plain: Any = torch.jit.script(einfx.jitable(fx.symbolic_trace(program)))
    assert_same(plain(A, B), program(A, B))


def test_example_inputs_and_state_are_not_changed() -> None:
    class Model(nn.Module):
        steps: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(3, dtype=torch.float64))
            self.norm = nn.BatchNorm1d(3, dtype=torch.float64)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            a.add_(1)
            operator.imul(b, 2)
            self.steps.add_(1)
            return self.norm(E("ij,jk->ik", a, b)) * self.steps

    model, a, b = Model(), A.clone(), B.clone()
    before = copy.deepcopy(model.state_dict())
    optimised = einfx.optimize(model, (a, b))
    assert_same((a, b), (A, B), tolerance=0.0)
    assert_same(dict(model.state_dict()), dict(before), tolerance=0.0)
    assert_same(dict(optimised.state_dict()), dict(before), tolerance=0.0)
