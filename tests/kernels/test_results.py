"""What result_of foretells is what the emitted calls return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from einfx.equation import Equation
from einfx.kernels.real import lower
from einfx.kernels.results import Dense, result_of


def dense(tensor: torch.Tensor) -> Dense:
    return Dense(tuple(tensor.shape), tuple(tensor.stride()))


def visible(value: Dense) -> list[tuple[int, int]]:
    """Sizes and strides, without the strides of dimensions of size 1, which mean nothing."""
    return [(n, step if n != 1 else 0) for n, step in zip(value.shape, value.strides, strict=True)]


def checking(calls: list[Any]) -> Callable[..., Any]:
    """An emitter that runs every call and compares its result with what was foretold."""

    def emit(function: Callable[..., Any], *arguments: Any) -> Any:
        result = function(*arguments)
        foretold = result_of(function, *[dense(x) if isinstance(x, torch.Tensor) else x for x in arguments])
        assert visible(foretold) == visible(dense(result)), (function.__name__, [*map(str, arguments)])
        calls.append(function)
        return result

    return emit


@st.composite
def contractions(draw: st.DrawFn) -> tuple[Equation, list[torch.Tensor]]:
    labels = range(draw(st.integers(1, 5)))
    size = [draw(st.sampled_from([1, 2, 3, 5])) for _ in labels]
    inputs = [draw(st.lists(st.sampled_from(labels), max_size=4)) for _ in range(draw(st.integers(1, 2)))]
    used = sorted({x for part in inputs for x in part})
    output = draw(st.permutations([x for x in used if draw(st.booleans())]))
    operands = []
    for part in inputs:
        order = draw(st.permutations(range(len(part))))
        laid_out = torch.randn([size[part[i]] for i in order])
        operands.append(laid_out.permute([order.index(i) for i in range(len(part))]))
    return Equation(tuple(map(tuple, inputs)), tuple(output)), operands


@settings(max_examples=400)
@given(contractions(), st.booleans(), st.booleans())
def test_shapes_and_strides_of_emitted_calls_are_foretold(
    contraction: tuple[Equation, list[torch.Tensor]], contiguous: bool, use_strides: bool
) -> None:
    equation, operands = contraction
    result = lower(
        checking([]),
        equation,
        operands,
        [x.shape for x in operands],
        torch.float32,
        "cpu",
        guarded=True,
        strides=[x.stride() for x in operands] if use_strides else None,
        contiguous=contiguous,
    )
    wanted = torch.einsum(str(equation), *operands)
    torch.testing.assert_close(result, wanted)
    if contiguous:
        assert result.is_contiguous()


@pytest.mark.parametrize("function", [torch.relu, torch.neg])
def test_a_call_without_a_rule_runs_on_the_meta_device(function: Callable[..., Any]) -> None:
    assert result_of(function, Dense((2, 3), (3, 1))) == Dense((2, 3), (3, 1))
