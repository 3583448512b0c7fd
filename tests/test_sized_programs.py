"""A call finds the program that was made for inputs like its own, or for larger ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from einfx.sized_programs import KEPT, Program, SizedPrograms, signature

MODULE = torch.nn.Identity()


def _programs(grows: bool) -> tuple[SizedPrograms, list[tuple[int, ...]]]:
    planned: list[tuple[int, ...]] = []

    def replan(
        module: Any,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
        gradients: bool,
        overwrite: bool,
    ) -> Program:
        planned.append(tuple(arguments[0].shape))
        return Program(lambda module, x: x, grows)

    return SizedPrograms(replan), planned


def test_sizes_are_planned_once() -> None:
    programs, planned = _programs(grows=False)
    for size in (5, 3, 5, 3):
        programs.program(MODULE, (torch.ones(size),), {})
    assert planned == [(5,), (3,)]


def test_smaller_inputs_take_the_program_of_larger_ones_where_that_takes_no_more() -> None:
    programs, planned = _programs(grows=True)
    for shape in ((5, 5), (3, 5), (5, 4), (6, 1)):
        programs.program(MODULE, (torch.ones(shape),), {})
    assert planned == [(5, 5), (6, 1)]


def test_only_so_many_are_kept() -> None:
    programs, planned = _programs(grows=False)
    for size in (*range(KEPT + 1), 0):
        programs.program(MODULE, (torch.ones(size),), {})
    assert planned[-1] == (0,)
    assert len(planned) == KEPT + 2


def test_dtypes_strides_numbers_and_gradients_tell_calls_apart() -> None:
    x = torch.ones(4, 4)
    calls = [(x,), (x.double(),), (x.t(),), (x[:, ::2],), (x, 1), (x, True), (x.clone().requires_grad_(),)]
    found = [signature(MODULE, call, {}) for call in calls]
    assert len(set(found)) == len(calls)
    assert signature(MODULE, (), {"x": x}) != signature(MODULE, (), {"y": x})


def test_tensors_without_data_have_no_signature() -> None:
    assert signature(MODULE, (torch.ones(2, device="meta"),), {}) is None
