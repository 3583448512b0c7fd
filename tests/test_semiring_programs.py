"""Optimised programs over semirings do what the originals do: generated ones, judged by torch alone."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import einfx
from einfx.errors import UsageError
from tests.equivalence import assert_equivalent, observe
from tests.program import Program
from tests.rewriting import assert_same
from tests.semiring_judge import judge
from tests.semiring_programs import FLAVOURS, semiring_programs
from tests.test_programs import optimised

COUNTS = {"values": 300, "smooth": 150, "mutations": 150}


def profile(count: int) -> settings:
    return settings(
        max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize("flavour", sorted(FLAVOURS))
def test_an_optimised_program_does_what_the_original_does_at_any_batch_size(flavour: str) -> None:
    @profile(COUNTS[flavour])
    @given(semiring_programs(flavour))
    def run(program: Program) -> None:
        result = optimised(program)
        assert assert_equivalent(program, result) or flavour == "mutations"
        for batch in (1, 2, 0, 7):
            assert_equivalent(program, result, batch=batch)

    run()


@profile(100)
@given(semiring_programs("smooth"))
def test_gradients_of_inputs_and_parameters_are_those_of_the_original(program: Program) -> None:
    assert_equivalent(program, optimised(program), gradients=True)


@profile(100)
@given(semiring_programs("values"))
def test_dimensions_of_size_1_broadcast_at_run_time_as_in_the_original(program: Program) -> None:
    result = optimised(program)
    for dimension in range(sum(len(spec.shape) for spec in program.inputs)):
        assert_equivalent(program, result, ones=(dimension,))


@profile(100)
@given(semiring_programs("mutations"))
def test_one_tensor_passed_for_several_inputs_is_changed_as_the_original_changes_it(program: Program) -> None:
    assert_equivalent(program, optimised(program), share=True)


@profile(100)
@given(semiring_programs("values"))
def test_without_example_inputs_a_program_still_does_what_the_original_does(program: Program) -> None:
    assert_equivalent(program, einfx.optimize(program.model()))


@profile(60)
@given(semiring_programs("values"))
def test_what_scripts_gives_the_same(program: Program) -> None:
    expected = observe(program.model(oracle=True), program.arguments(), measure=True)
    result = copy.deepcopy(optimised(program))
    try:
        script: Any = torch.jit.script(einfx.jitable(result))
    except UsageError as error:
        if not any(word in str(error) for word in ("block_size", "base_two", "narrowest", "'real'")):
            raise
        assume(False)
    assert_same(script(*program.arguments()), expected.outputs, magnitude=expected.magnitude)


CHAINS: dict[str, Callable[..., torch.Tensor]] = {
    "chain": lambda e, a, b, c: e("ij,jk->ik", e("ij,jk->ik", a, b), c),
    "all": lambda e, a, b, c: e("ij,jk,kl->il", a + 1.5, b, c - 0.5),
    "twice": lambda e, a, b, c: e("ij,ik->", e("ij,jk->ik", a, b), e("ij,jk->ik", a, b).clone()),
    "fork": lambda e, a, b, c: e("ij,jk->ik", e("ij,jk->ki", a, b).t(), c) + e("ij,jk,kl->il", a, b, c),
}


@pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus"])
@pytest.mark.parametrize("name", CHAINS)
@profile(15)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.2, 0.6, 0.9]))
def test_what_is_impossible_stays_so_in_every_order(
    semiring: str, name: str, seed: int, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    absent = math.inf if semiring == "min_plus" else -math.inf
    operands = [torch.randn(shape, generator=generator).double() for shape in ((3, 9), (9, 8), (8, 4))]
    for operand in operands:
        operand[torch.rand(operand.shape, generator=generator) < share] = absent
    words: dict[str, Any] = {"semiring": semiring} | ({"grad_of_neg_inf": 0.0} if semiring == "log" else {})

    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return CHAINS[name](functools.partial(einfx.einsum, **words), a, b, c)

    expected = CHAINS[name](functools.partial(judge, semiring=semiring), *operands)
    result = einfx.optimize(program, operands)
    assert_same(result(*operands), expected)
    gradients = []
    for function in (program, result):
        leaves = [x.clone().requires_grad_() for x in operands]
        out = function(*leaves)
        gradients.append(torch.autograd.grad(out[out.isfinite()].sum(), leaves, allow_unused=True))
    if semiring == "log":
        assert_same(gradients[1], gradients[0], tolerance=1e-11)
