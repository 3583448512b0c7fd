"""The fastest kernel: what is left out without a look would have lost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from einfx.costs import candidates, matrix_candidates
from einfx.costs.candidates import fastest
from einfx.costs.situation import Situation
from einfx.costs.step_kernel import Kernel
from einfx.equation import Equation
from einfx.layout import Layout
from einfx.machine import machine_for

Strides = tuple[int, ...]

REAL: Callable[..., Any] = matrix_candidates.fastest_product


def random_step(seed: int) -> tuple[Situation, list[Layout]]:
    """Two operands of up to six labels, permuted, and where they are contracted."""
    choose = random.Random(seed)
    labels = range(choose.randint(2, 6))
    inputs = tuple(tuple(choose.sample(labels, choose.randint(1, len(labels)))) for _ in range(2))
    used = list(dict.fromkeys(x for part in inputs for x in part))
    equation = Equation(inputs, tuple(choose.sample(used, choose.randint(0, len(used)))))
    sizes = {x: choose.choice((2, 3, 8, 16, 64)) for x in equation.labels}
    shapes = [tuple(sizes[x] for x in part) for part in equation.inputs]
    layouts = [
        Layout.of(part, shape, permuted(shape, choose), False)
        for part, shape in zip(equation.inputs, shapes, strict=True)
    ]
    dtype = choose.choice((torch.float32, torch.float64, torch.bfloat16))
    contiguous, guarded = choose.random() < 0.3, choose.random() < 0.3
    machine = machine_for(choose.choice(("cpu", "cuda")))
    return Situation(equation, equation.output, sizes, dtype, machine, contiguous, guarded), layouts


def permuted(shape: Sequence[int], choose: random.Random) -> Strides:
    order = choose.sample(range(len(shape)), len(shape))
    strides, step = [0] * len(shape), 1
    for dimension in order:
        strides[dimension] = step
        step *= shape[dimension]
    return tuple(strides)


def without_bounds(seed: int, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The fastest kernel where every candidate is looked at."""

    def product(*arguments: Any) -> Any:
        *rest, limit = arguments
        found = REAL(*rest, math.inf)
        return found if found is not None and found.seconds < limit else None

    monkeypatch.setattr(candidates, "fastest_product", product)
    bounds = candidates._Elementwise._bounds
    monkeypatch.setattr(
        candidates._Elementwise,
        "_bounds",
        lambda self: tuple(-1.0 if math.isfinite(x) else x for x in bounds(self)),
    )
    return fastest(*random_step(seed))


@pytest.mark.parametrize("seed", range(200))
def test_bounds_leave_out_nothing_that_wins(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fastest(*random_step(seed))
    assert found == without_bounds(seed, monkeypatch)


@pytest.mark.parametrize("seed", range(60))
def test_the_cost_of_a_kernel_is_that_by_which_it_was_chosen(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    situation, layouts = random_step(seed)
    limits = []

    def product(*arguments: Any) -> Any:
        found = REAL(*arguments)
        if found is not None:
            limits.append((found.seconds, found.kernel(situation).cost.seconds))
        return found

    monkeypatch.setattr(candidates, "fastest_product", product)
    fastest(situation, layouts)
    for chosen, told in limits:
        assert told == pytest.approx(chosen)
