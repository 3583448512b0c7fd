"""Zeros and ones of a semiring as tensors: margins around operands, vectors, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...algebra import Semiring
from ...options import Options
from ...pattern import pattern_of_shape
from .problem import Met, Problem

__all__ = ["annihilated", "count_of_ones", "ones_vector", "with_all_margins"]


def ones_vector(semiring: Semiring, like: Tensor, size: int) -> Tensor:
    """A vector of a semiring's ones, of the dtype and on the device of a tensor."""
    return torch.full((size,), semiring.one_of(like.dtype), dtype=like.dtype, device=like.device)


def count_of_ones(semiring: Semiring, like: Tensor, count: int) -> Tensor:
    """The sum of a number of ones, as the terms of a label that nothing carries add up to.

    Args:
        semiring: over which.
        like: of the dtype and on the device that the sum gets.
        count: how many, at least 1.

    Returns:
        A tensor of no dimensions.

    Example:
        >>> from ...semiring import get
        >>> count_of_ones(get("log"), torch.ones(1, dtype=torch.float64), 12).exp().round()
        tensor(12., dtype=torch.float64)
        >>> count_of_ones(get("max_plus"), torch.ones(1), 12)
        tensor(0.)
    """
    wide = torch.float64 if like.dtype.is_floating_point and like.device.type != "mps" else like.dtype
    power = torch.full((), semiring.one_of(wide), dtype=wide, device=like.device)
    total = None
    while count:
        if count % 2:
            total = power if total is None else semiring.add(total, power)
        power = semiring.add(power, power)
        count //= 2
    assert total is not None
    return total.to(like.dtype)


def annihilated(semiring: Semiring, x: Tensor, linear: bool = False) -> bool:
    """Whether the semiring's zero times every element is its zero.

    Args:
        semiring: over which.
        x: any operand of it.
        linear: whether it's one that a log contraction takes as it is.

    Example:
        >>> from ...semiring import get
        >>> annihilated(get("max_plus"), torch.tensor([0.0, -float("inf")]))
        True
        >>> annihilated(get("max_plus"), torch.tensor([0.0, float("inf")]))
        False
    """
    if semiring.zero_annihilates:
        return True
    if linear:
        return bool(x.isfinite().all())
    zero = torch.full((), semiring.zero_of(x.dtype), dtype=x.dtype, device=x.device)
    return bool((semiring.multiplication(zero, x) == zero).all())


def with_all_margins(problem: Problem, windows: Sequence[Met], options: Options) -> Problem | None:
    """The problem with margins of zeros around tensors, so that windows never reach over their ends.

    Args:
        problem: any problem.
        windows: patterns whose inputs only tensors have.
        options: of the contraction.

    Returns:
        None where it would change the result, or not fit in the limit.
    """
    margins: dict[int, tuple[int, int]] = {}
    patterns = list(problem.patterns)
    for met in windows:
        pattern, read = met.pattern, met.labels[2]
        last = pattern.dilation * (pattern.kernel_size - 1) + pattern.stride * (pattern.output_size - 1)
        left, right = max(pattern.left, 0), max(last - pattern.left - (pattern.input_size - 1), 0)
        if (left, right) == (0, 0) or not problem.carriers(read):
            continue
        margins[read] = (left, right)
        whole = pattern_of_shape(
            pattern.kernel_size,
            pattern.output_size,
            pattern.input_size + left + right,
            stride=pattern.stride,
            left=pattern.left - left,
            dilation=pattern.dilation,
        )
        patterns[patterns.index(met)] = met._replace(pattern=whole)
    grown = {label: problem.sizes[label] + sum(pair) for label, pair in margins.items()}
    sizes: dict[int, Any] = {**problem.sizes, **grown}
    around = [position for position, labels in enumerate(problem.labels) if margins.keys() & set(labels)]
    if not around:
        return None
    held = sum(
        problem.tensors[position].element_size() * prod(sizes[label] for label in problem.labels[position])
        for position in around
    )
    if options.memory_limit is not None and held > options.memory_limit:
        return None
    for position, tensor in enumerate(problem.tensors):
        met_by_zeros = len(around) > 1 or position not in around
        if met_by_zeros and not annihilated(options.semiring, tensor, problem.linear[position]):
            return None
    tensors = list(problem.tensors)
    for position in around:
        tensor, labels = tensors[position], problem.labels[position]
        zero = 0 if problem.linear[position] else options.semiring.zero_of(tensor.dtype)
        out = tensor.new_full([sizes[label] for label in labels], zero)
        inner = tuple(
            slice(margins[label][0], margins[label][0] + problem.sizes[label])
            if label in margins
            else slice(None)
            for label in labels
        )
        out[inner] = tensor
        tensors[position] = out
    return replace(
        problem,
        tensors=tuple(tensors),
        patterns=tuple(patterns),
        sizes=sizes,
        held_bytes=problem.held_bytes + held,
    )
