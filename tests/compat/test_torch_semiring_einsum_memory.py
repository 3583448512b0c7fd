"""The stand-in for torch_semiring_einsum: block sizes bound the memory that a call takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from einfx.compat import torch_semiring_einsum as ours
from einfx.compat.torch_semiring_einsum import AutomaticBlockSize, compile_equation

MIB = 1 << 20
SLACK = MIB + (1 << 18)
"""What calls may take in any case, and small things."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "real": ours.einsum,
    "log": ours.log_einsum,
    "max": ours.max_tropical_einsum_forward,
    "viterbi": ours.log_viterbi_einsum_forward,
}
CONTRACTIONS: dict[str, list[tuple[int, ...]]] = {
    "ij,jk->ik": [(400, 300), (300, 400)],
    "bij,bjk->bik": [(4, 128, 96), (4, 96, 128)],
    "ak,ak,ak->a": [(8, 40000)] * 3,
    "ai,bi,ci->abc": [(40, 150), (40, 150), (40, 150)],
}


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most that was allocated at once, beyond what there was before."""
    function()  # what is planned and cached at a first call stays
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        result = function()
    now = most = 0
    profiler: Any = record.profiler
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    del result
    return most


def operands(text: str) -> list[Tensor]:
    return [torch.randn(shape) for shape in CONTRACTIONS[text]]


def result_bytes(text: str, name: str, args: list[Tensor]) -> int:
    equation = compile_equation(text)
    outputs = math.prod(equation.get_sizes(args, equation.output_variables))
    summed = len(equation.reduce_input_to_output.reduced_variables)
    return outputs * (4 + 8 * summed * (name == "viterbi"))


@pytest.mark.parametrize("mebibytes", [4, 8, 1024])
@pytest.mark.parametrize("text", CONTRACTIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_automatic_block_size_bounds_what_a_call_takes(name: str, text: str, mebibytes: int) -> None:
    args, equation = operands(text), compile_equation(text)
    size = AutomaticBlockSize(max_cpu_bytes=mebibytes * MIB)
    taken = peak_bytes(lambda: FUNCTIONS[name](equation, *args, block_size=size))
    result = result_bytes(text, name, args)
    assert taken <= max(mebibytes * MIB, 2 * result) + SLACK


@pytest.mark.parametrize("block_size", [1, 4, 64])
@pytest.mark.parametrize("text", CONTRACTIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_block_size_bounds_what_a_call_takes(name: str, text: str, block_size: int) -> None:
    args, equation = operands(text), compile_equation(text)
    taken = peak_bytes(lambda: FUNCTIONS[name](equation, *args, block_size=block_size))
    result = result_bytes(text, name, args)
    sizes = equation.get_sizes(args, equation.reduce_input_to_output.reduced_variables)
    outputs = math.prod(equation.get_sizes(args, equation.output_variables))
    block = 4 * outputs * math.prod(min(size, block_size) for size in sizes)
    assert taken <= 2 * result + block + SLACK


@pytest.mark.parametrize("size", [1, 16, AutomaticBlockSize(max_cpu_bytes=4 * MIB)], ids=repr)
@pytest.mark.parametrize("name", ["real", "log"])
def test_gradients_stay_within_the_bound_too(name: str, size: Any) -> None:
    """Without the intermediates that ``ak,ak,ak->a`` has in pairs, and that autograd would keep."""
    text = "ak,ak,ak->a"
    args, equation = operands(text), compile_equation(text)
    for arg in args:
        arg.requires_grad_()

    def call() -> tuple[Tensor, ...]:
        output = FUNCTIONS[name](equation, *args, block_size=size)
        return torch.autograd.grad(output.sum(), args)

    gradients = sum(4 * arg.numel() for arg in args)
    assert peak_bytes(call) <= gradients + 4 * MIB + SLACK


def test_callbacks_are_given_blocks_that_fit() -> None:
    args, equation = operands("ij,jk->ik"), compile_equation("ij,jk->ik")
    size, utils = AutomaticBlockSize(max_cpu_bytes=8 * MIB), ours.utils

    def callback(compute_sum: Any) -> Any:
        return compute_sum(utils.add_in_place, utils.sum_block, utils.multiply_in_place)

    got = peak_bytes(lambda: ours.semiring_einsum_forward(equation, args, size, callback))
    assert got <= 8 * MIB
    assert got >= 2 * MIB
