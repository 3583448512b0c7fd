"""Optimised programs over semirings do what the originals do: generated ones, judged by torch alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

import einfx
from einfx.errors import UsageError
from tests.equivalence import assert_equivalent, observe
from tests.program import Program
from tests.rewriting import assert_same
from tests.semiring_programs import FLAVOURS, semiring_programs
from tests.test_programs import optimised

COUNTS = {"values": 400, "smooth": 200, "mutations": 200}


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


@profile(150)
@given(semiring_programs("smooth"))
def test_gradients_of_inputs_and_parameters_are_those_of_the_original(program: Program) -> None:
    assert_equivalent(program, optimised(program), gradients=True)


@profile(150)
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
