"""What depends on constants alone is computed ahead of the call; state is no constant unless named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import einfx
from einfx.capture import capture
from einfx.graphs.shapes import propagate
from einfx.optimized import OptimizedModule
from einfx.passes import ChoosePaths, FoldConstants
from einfx.passes.fold_constants import folded_constants
from einfx.rewrite import collect_declined, readable_code
from tests.rewriting import assert_same, check_declined, check_rewrite

E = torch.einsum
X = torch.rand(5, 3, dtype=torch.float64)
FOLDED = """
_folded_constant_0 = self._folded_constant_0
einsum = torch.functional.einsum('bi,ij->bj', x, _folded_constant_0)
return einsum
"""


class Model(nn.Module):
    """Two buffers and two parameters, of which one is frozen."""

    p: torch.Tensor
    q: torch.Tensor

    def __init__(self, program: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.register_buffer("p", torch.rand(3, 3, dtype=torch.float64))
        self.register_buffer("q", torch.rand(3, 3, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.rand(3, 3, dtype=torch.float64), requires_grad=False)
        self.weight = nn.Parameter(torch.rand(3, 3, dtype=torch.float64))
        self.plain = torch.rand(3, 3, dtype=torch.float64)
        self.program = program

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.program(self, x)


def captured(program: Callable[[Any, Any], Any]) -> OptimizedModule:
    return capture(Model(program), (X,))


@pytest.mark.parametrize(
    "program",
    [
        lambda m, x: E("bi,ij->bj", x, m.p @ m.q),
        lambda m, x: E("bi,ij->bj", x, m.p.matmul(m.q).mul(2) - m.q),
        lambda m, x: E("bi,ij->bj", x, (2 * m.p).t() + m.q.exp() / 3),
        lambda m, x: E("bi,ij->bj", x, m.frozen.reshape(-1).reshape(3, 3) * m.p),
        lambda m, x: E("bi,ij->bj", x, -m.q),
    ],
)
def test_a_computation_on_named_constants_becomes_an_attribute(program: Callable[[Any, Any], Any]) -> None:
    check_rewrite(FoldConstants(constants=("p", "q", "frozen")), captured(program), FOLDED, (X,), rewrites=1)


def test_tensors_that_the_program_makes_need_no_name() -> None:
    rotation = torch.rand(3, 3, dtype=torch.float64)
    traced = capture(lambda x: E("bi,ij,jk->bk", x, rotation, rotation), (X,))
    propagate(traced, (X,))
    ChoosePaths(optimize=((1, 2), (0, 1))).apply(traced)
    assert FoldConstants().apply(traced) == 1
    traced.recompile()
    assert str(traced._folded_constant_0) == str(rotation @ rotation)
    assert_same(traced(X), X @ rotation @ rotation)


def test_tensors_that_are_plain_attributes_of_the_model_need_no_name() -> None:
    traced = captured(lambda m, x: E("bi,ij,jk->bk", x, m.plain, m.plain))
    propagate(traced, (X,))
    ChoosePaths(optimize=((1, 2), (0, 1))).apply(traced)
    assert FoldConstants().apply(traced) == 1
    assert "_folded_constant_0" in readable_code(traced.graph)


def test_state_that_is_not_named_is_left_in_the_program() -> None:
    program = captured(lambda m, x: E("bi,ij->bj", x, m.p @ m.q))
    check_declined(FoldConstants(), program, (X,))
    check_declined(FoldConstants(constants=("p",)), program, (X,))


def test_parameters_that_train_are_left_in_the_program_even_if_named() -> None:
    program = captured(lambda m, x: E("bi,ij->bj", x, m.weight @ m.weight))
    check_declined(FoldConstants(constants=("weight",)), program, (X,))


def test_a_view_of_a_constant_has_nothing_to_save() -> None:
    program = captured(lambda m, x: E("bi,ij->bj", x, m.p.t().reshape(3, 3)))
    check_declined(FoldConstants(constants=("p",)), program, (X,))


def test_a_constant_that_the_caller_gets_is_left_with_the_reason() -> None:
    program = captured(lambda m, x: m.p @ m.q)
    check_declined(FoldConstants(constants=("p", "q")), program, (X,), "the caller gets it")


def test_a_constant_that_the_program_writes_to_is_none() -> None:
    def program(module: Any, x: torch.Tensor) -> torch.Tensor:
        module.p.add_(1)
        return E("bi,ij->bj", x, module.p @ module.q)

    traced = captured(program)
    propagate(traced, (X,))
    before = readable_code(traced.graph)
    assert FoldConstants(constants=("p", "q")).apply(traced) == 0
    assert readable_code(traced.graph) == before


def test_a_value_much_larger_than_its_sources_is_left_with_the_reason() -> None:
    vector = torch.rand(2000)
    program = capture(lambda x: E("i,ij->j", x, E("i,j->ij", 2 * x, vector)), (vector,))
    check_declined(FoldConstants(), program, (vector,))

    class Outer(nn.Module):
        p: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("p", vector)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return E("i,ij->j", x, torch.outer(self.p, self.p))

    check_declined(FoldConstants(constants=("p",)), capture(Outer()), (vector,), "2 times as large")


def test_random_numbers_are_no_constants() -> None:
    program = captured(lambda m, x: E("bi,ij->bj", x, torch.rand_like(m.p)))
    propagate(program, (X,))
    assert FoldConstants(constants=("p",)).apply(program) == 0


def test_a_folded_constant_is_a_buffer_that_is_not_saved() -> None:
    traced = captured(lambda m, x: E("bi,ij->bj", x, m.p @ m.q))
    propagate(traced, (X,))
    keys = list(traced.state_dict())
    FoldConstants(constants=("p", "q")).apply(traced)
    assert list(traced.state_dict()) == keys
    assert "_folded_constant_0" in dict(traced.named_buffers())


def test_what_a_constant_came_from_is_kept() -> None:
    traced = captured(lambda m, x: E("bi,ij->bj", x, m.p @ m.q))
    propagate(traced, (X,))
    FoldConstants(constants=("p", "q")).apply(traced)
    (constant,) = folded_constants(traced)
    assert constant.name == "_folded_constant_0"
    assert constant.sources == ("p", "q")


def test_two_rounds_of_folding_number_their_constants_on() -> None:
    traced = captured(lambda m, x: E("bi,ij->bj", x, m.p @ m.q) + x @ (m.frozen * 2))
    propagate(traced, (X,))
    assert FoldConstants(constants=("p", "q")).apply(traced) == 1
    with collect_declined() as declined:
        assert FoldConstants(constants=("p", "q", "frozen")).apply(traced) == 1
    assert not declined
    assert [constant.name for constant in folded_constants(traced)] == [
        "_folded_constant_0",
        "_folded_constant_1",
    ]


def test_contractions_of_constants_over_a_semiring_are_folded_with_their_options() -> None:
    def program(x: torch.Tensor, model: Any) -> torch.Tensor:
        table = einfx.einsum("ij,jk->ik", model.p, model.q, semiring="log", linear_operands=(1,))
        result: torch.Tensor = einfx.einsum("bi,ij->bj", x, table, semiring="log")
        return result

    class Chain(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return program(x, self)

    model = Chain(lambda model, x: x)
    traced = capture(model)
    propagate(traced, (X,))
    assert FoldConstants(constants=("p", "q")).apply(traced) == 1
    traced.recompile()
    assert readable_code(traced.graph).count("einfx_contract_einsum") == 1
    assert_same(traced(X), model(X))


def test_the_logarithm_of_a_linear_constant_is_something_to_save() -> None:
    class Logarithm(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = einfx.einsum("ij->ji", self.p, semiring="log", linear_operands=(0,))
            return x @ result

    traced = capture(Logarithm(lambda model, x: x))
    propagate(traced, (X,))
    assert FoldConstants(constants=("p",)).apply(traced) == 1
