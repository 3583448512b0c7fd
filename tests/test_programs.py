"""Optimised programs do what the originals do in eager mode: thousands of generated ones.

The original runs on torch alone and is the only judge.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from torch import fx

import einfx
from einfx.errors import CaptureError
from tests.equivalence import Observation, assert_equivalent, observe
from tests.program import Program
from tests.rewriting import assert_same
from tests.strategies import FLAVOURS, programs

COUNTS = {
    "contractions": 600,
    "scalars": 400,
    "views": 300,
    "mutations": 500,
    "dtypes": 300,
    "complex": 100,
    "patterns": 150,
}
"""How many programs of each flavour are tried: 2,350 in all."""


def profile(count: int) -> settings:
    return settings(
        max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )


class _Tracer(fx.Tracer):
    """Torch's own tracer, which by default bakes the values of buffers into the graph."""

    proxy_buffer_attributes = True


def optimised(program: Program) -> einfx.OptimizedModule:
    """The program optimised; those that symbolic tracing can't follow are not examples."""
    try:
        return einfx.optimize(program.model(), program.arguments())
    except CaptureError:
        try:
            _Tracer().trace(program.model())
        except Exception:
            assume(False)
        raise


def check(program: Program) -> None:
    """Everything at the example's sizes, and again at other sizes of the batch."""
    model, arguments = program.model(), program.arguments()
    result = optimised(program)
    assert_same(arguments, program.arguments(), tolerance=0.0)
    assert_same(dict(model.state_dict()), dict(program.model().state_dict()), tolerance=0.0)
    assert assert_equivalent(program, result) or any(x.dtype is torch.float16 for x in arguments)
    for batch in (1, 2, 0, 7):
        assert_equivalent(program, result, batch=batch)


@pytest.mark.parametrize("flavour", sorted(FLAVOURS))
def test_an_optimised_program_does_what_the_original_does_at_any_batch_size(flavour: str) -> None:
    @profile(COUNTS[flavour])
    @given(programs(flavour))
    def run(program: Program) -> None:
        check(program)

    run()


@pytest.mark.parametrize("flavour", ["contractions", "scalars", "views", "mutations", "complex", "patterns"])
def test_gradients_of_inputs_and_parameters_are_those_of_the_original(flavour: str) -> None:
    @profile(120)
    @given(programs(flavour))
    def run(program: Program) -> None:
        assert_equivalent(program, optimised(program), gradients=True)

    run()


@profile(150)
@given(programs("mutations"))
def test_one_tensor_passed_for_several_inputs_is_changed_as_the_original_changes_it(program: Program) -> None:
    assert_equivalent(program, optimised(program), share=True)


@profile(200)
@given(programs("contractions"))
def test_dimensions_of_size_1_broadcast_at_run_time_as_in_the_original(program: Program) -> None:
    result = optimised(program)
    for dimension in range(sum(len(spec.shape) for spec in program.inputs)):
        assert_equivalent(program, result, ones=(dimension,))


@profile(150)
@given(programs("scalars"))
def test_without_example_inputs_a_program_still_does_what_the_original_does(program: Program) -> None:
    try:
        result = einfx.optimize(program.model())
    except CaptureError:
        assume(False)
    assert_equivalent(program, result)
    assert_equivalent(program, result, batch=2)


@pytest.mark.parametrize("flavour", ["contractions", "scalars", "views"])
def test_what_scripts_still_scripts_when_optimised_and_gives_the_same(flavour: str) -> None:
    @profile(50)
    @given(programs(flavour))
    def run(program: Program) -> None:
        expected = observe(program.model(oracle=True), program.arguments(), measure=True)
        assume(_scripts(program, expected))
        scripted: Any = torch.jit.script(einfx.jitable(copy.deepcopy(optimised(program))))
        assert_same(scripted(*program.arguments()), expected.outputs, magnitude=expected.magnitude)

    run()


def _scripts(program: Program, expected: Observation) -> bool:
    """Whether the original's own operations give in TorchScript what they give in eager mode.

    Their einsums are written with a list, as TorchScript needs.
    """
    model = program.model(oracle=True)
    try:
        graph = _Tracer().trace(model)
        for node in graph.nodes:
            if node.target is torch.functional.einsum and isinstance(node.args[0], str):
                node.args = (node.args[0], list(node.args[1:]))
        got = torch.jit.script(fx.GraphModule(model, graph))(*program.arguments())
        assert_same(got, expected.outputs, magnitude=expected.magnitude)
    except Exception:
        return False
    return True
