"""Blocks that lie in many short stretches cost more to read than their bytes."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import einfx
from einfx.layout import contiguous_strides
from einfx.machine import machine_for
from einfx.slicing import SlicedPlan
from einfx.slicing.running.into import Place
from einfx.slicing.running.narrow import narrow_seconds

SHAPE = (64, 256, 128)


def _seconds(shape: tuple[int, ...], whole: tuple[int, ...] = SHAPE) -> float:
    return narrow_seconds(Place(shape, contiguous_strides(whole)), 4, "cpu")


def _lines(place: Place) -> int:
    """The lines of the cache that a tensor of float32 lies in, one by one."""
    reached = {
        4 * sum(i * step for i, step in zip(index, place.strides, strict=True)) // 64
        for index in product(*map(range, place.shape))
    }
    return len(reached)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_whole_tensor_costs_nothing_beside_its_bytes_however_it_is_turned(order: tuple[int, ...]) -> None:
    strides = contiguous_strides(SHAPE)
    turned = Place(tuple(SHAPE[i] for i in order), tuple(strides[i] for i in order))
    assert narrow_seconds(turned, 4, "cpu") < 1e-6


def test_blocks_of_outer_labels_cost_nothing_and_those_of_the_innermost_do() -> None:
    assert _seconds((1, 256, 128)) < 1e-6
    outer, inner = _seconds((64, 1, 128)), _seconds((64, 256, 1))
    assert inner > 50 * outer


def test_the_narrower_the_blocks_the_more_a_tensor_costs_together() -> None:
    together = [128 // block * _seconds((64, 256, block)) for block in (1, 4, 16, 64)]
    assert together == sorted(together, reverse=True)


@pytest.mark.parametrize("block", [(64, 256, 1), (64, 16, 16), (64, 1, 3)])
def test_a_block_costs_at_least_the_lines_that_it_lies_in(block: tuple[int, ...]) -> None:
    place = Place(block, contiguous_strides(SHAPE))
    elements = block[0] * block[1] * block[2]
    least = (64 * _lines(place) - 4 * elements) / machine_for("cpu").bandwidth
    assert narrow_seconds(place, 4, "cpu") >= 0.99 * least


def test_what_fits_into_the_cache_is_read_from_there() -> None:
    assert _seconds((64, 64, 1), (64, 64, 16)) == 0.0


def test_repeated_elements_are_read_once() -> None:
    assert narrow_seconds(Place((1000, 1000, 1000), (0, 0, 0)), 4, "cpu") == 0.0


def test_a_loop_goes_over_rows_rather_than_over_columns() -> None:
    # Both would do, and take as many operations.
    x, y = torch.empty(128, 256, 512), torch.empty(128, 256, 512)
    plan = einfx.contract_path("abc,abc->a", x, y, memory_limit=2 << 20)
    assert isinstance(plan, SlicedPlan)
    blocks = {loop.label: loop.block for loop in plan.loops}
    assert blocks.get("c", 512) >= 16
