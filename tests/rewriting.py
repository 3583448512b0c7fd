"""`check_rewrite`: what every test of a pass asserts, and the comparison of values that tests share."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from einfx.graphs.shapes import propagate
from einfx.rewrite import Pass, collect_declined, find_problem, readable_code

__all__ = ["assert_same", "check_declined", "check_rewrite", "error_of", "in_double"]

Program = Callable[..., Any]

ROUNDING = {
    torch.float64: 1e-12,
    torch.complex128: 1e-12,
    torch.float32: 2e-5,
    torch.complex64: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1.5e-1,
}
"""How far apart two orders of the same sum may be, relative to the largest number in the computation."""


def check_rewrite(
    pass_: Pass,
    program: Program | fx.GraphModule,
    expected_text: str,
    example_inputs: Sequence[Any],
    *,
    rewrites: int | None = None,
) -> fx.GraphModule:
    """Apply one pass to a program and assert all that a pass promises.

    Asserted are: the readable code afterwards; the same values in float64 as the program itself gives,
    and the same dtypes and shapes on the example inputs as they are; that a second application does
    nothing and says so; that the count is above zero exactly where the code changed.

    Args:
        pass_: the pass to test.
        program: a function, a module or an already traced graph module (which is not changed).
        expected_text: the code after the pass, as ``readable_code`` prints it, with or without its ``def``
            line and at any indentation.
        example_inputs: the arguments, for shapes and dtypes as for values.
        rewrites: the exact count expected, where it's worth saying.

    Returns:
        The rewritten graph module.
    """
    traced = copy.deepcopy(program) if isinstance(program, fx.GraphModule) else fx.symbolic_trace(program)
    propagate(traced, example_inputs)
    before = readable_code(traced.graph)

    count = pass_.apply(traced)
    traced.recompile()
    text = readable_code(traced.graph)
    assert _comparable(text, expected_text) == _comparable(expected_text, expected_text), f"\n{text}"
    assert find_problem(traced) is None

    assert count >= 0
    assert (count > 0) == (text != before), f"{count} rewrites were counted, and the code was {before}"
    if rewrites is not None:
        assert count == rewrites

    arguments = _cloned(example_inputs)
    expected = program(*_cloned(example_inputs))
    assert_same(traced(*arguments), expected)
    double = in_double(program) if isinstance(program, nn.Module) else program
    expected = double(*in_double(_cloned(example_inputs)))
    assert_same(in_double(traced)(*in_double(_cloned(example_inputs))), expected)

    assert pass_.apply(traced) == 0, (
        f"a second application changed\n{text}\nto\n{readable_code(traced.graph)}"
    )
    assert readable_code(traced.graph) == text
    return traced


def check_declined(
    pass_: Pass, program: Program | fx.GraphModule, example_inputs: Sequence[Any], *reasons: str
) -> None:
    """Assert that a pass leaves a program exactly as it is, and what it says about that.

    Args:
        pass_: the pass to test.
        program: as for :func:`check_rewrite`.
        example_inputs: the arguments.
        reasons: a part of each reason that the pass notes for the report, in order; none where it has no
            rewrite to decline.
    """
    traced = program if isinstance(program, fx.GraphModule) else fx.symbolic_trace(program)
    with collect_declined() as declined:
        check_rewrite(pass_, program, readable_code(traced.graph), example_inputs, rewrites=0)
    said = [entry.reason for entry in declined]
    assert len(said) == len(reasons), said
    for got, expected in zip(said, reasons, strict=True):
        assert expected in got


def _comparable(text: str, expected: str) -> str:
    lines = textwrap.dedent(text).strip().splitlines()
    if lines and lines[0].startswith("def ") and not expected.strip().startswith("def "):
        lines = textwrap.dedent("\n".join(lines[1:])).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _cloned(values: Sequence[Any]) -> list[Any]:
    copied: list[Any] = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), list(values))
    return copied


def in_double(value: Any) -> Any:
    """A copy of a module, or of a pytree of tensors, with its floating tensors in float64."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).double()
    return pytree.tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, value)


def error_of(got: torch.Tensor, expected: torch.Tensor, magnitude: float = 0.0) -> float:
    """The largest difference of two tensors, relative to ``magnitude`` or to the largest number expected.

    Infinities and NaNs that agree differ by nothing; those that don't, by infinity.
    """
    if expected.numel() == 0:
        return 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    got, expected = got.detach().to(wide), expected.detach().to(wide)
    agree = (got == expected) | (got.isnan() & expected.isnan())
    if bool((~agree & ~(got.isfinite() & expected.isfinite())).any()):
        return float("inf")
    distance = torch.where(agree, 0.0, (got - expected).abs())
    finite = torch.where(expected.isfinite(), expected.abs(), 0.0)
    return float(distance.max()) / max(magnitude, float(finite.max()), 1e-300)


def assert_same(got: Any, expected: Any, *, tolerance: float | None = None, magnitude: float = 0.0) -> None:
    """Assert two pytrees equal: structure, types, shapes, dtypes, devices, and values up to rounding.

    Args:
        got: what the program under test gave.
        expected: what the original gave.
        tolerance: the largest relative difference; by default that of each tensor's dtype, and no
            difference at all for integers and booleans.
        magnitude: what differences are relative to, where it's more than the largest number expected: the
            largest number in the whole computation, since sums may cancel.
    """
    got_leaves, got_spec = pytree.tree_flatten(got)
    leaves, spec = pytree.tree_flatten(expected)
    assert got_spec == spec, f"the output's structure is {got_spec}, not {spec}"
    for i, (value, reference) in enumerate(zip(got_leaves, leaves, strict=True)):
        if not isinstance(reference, torch.Tensor):
            assert value == reference
            assert type(value) is type(reference)
            continue
        assert isinstance(value, torch.Tensor), f"output {i} is {value!r}"
        described = (value.dtype, value.shape, value.device)
        assert described == (reference.dtype, reference.shape, reference.device), f"output {i} is {described}"
        allowed = ROUNDING.get(reference.dtype, 0.0) if tolerance is None else tolerance
        error = error_of(value, reference, magnitude)
        assert error <= allowed, f"output {i} is off by {error:.3g}:\n{value}\ninstead of\n{reference}"
