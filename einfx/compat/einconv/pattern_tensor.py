"""Pattern tensors that are still known as patterns after they were averaged over their outputs.

Second-order optimizers (singd, curvlinops) average each pattern over its outputs and contract the input with
the averages. That sums every window of the input, which needs no matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...conv.parameters import hashable
from ...conv.window_sums import sum_windows
from ...equation import Equation
from ...errors import EquationError
from ...pattern import IndexPattern

__all__ = ["PatternTensor", "as_pattern_tensor"]

_MEANS = frozenset({torch.mean, Tensor.mean})
_FOLLOWED = _MEANS | {
    torch.sum,
    Tensor.sum,
    torch.permute,
    Tensor.permute,
    torch.transpose,
    Tensor.transpose,
    torch.movedim,
    Tensor.movedim,
}
_PROBE = (2, 3, 5)
"""Sizes of kernel, output and input of a small tensor, by which an axis is known again."""

_KERNEL, _OUTPUT, _INPUT = _PROBE


class _Memory(NamedTuple):
    """What a tensor is: a pattern with its axes in some order, or its sum over outputs, times a number."""

    pattern: IndexPattern
    axes: tuple[int, ...]
    scale: float
    version: int


class PatternTensor(Tensor):
    """An index pattern as a tensor, which knows its sum and its mean over outputs, and their transposes.

    ``torch.einsum`` of an input with such means sums the input's windows. All else gives plain tensors.

    Example:
        >>> from einfx.compat.einconv import index_pattern
        >>> pattern = index_pattern(5, 3, dtype=torch.float64)
        >>> x = torch.arange(10.0, dtype=torch.float64).view(2, 5)
        >>> torch.einsum("ni,ki->nk", x, pattern.mean(1))
        tensor([[1., 2., 3.],
                [6., 7., 8.]], dtype=torch.float64)
    """

    _einfx_memory: _Memory | None = None

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The function on plain tensors, but for contractions that sum windows."""
        options = kwargs or {}
        if func is Tensor.__repr__:
            return repr(args[0].as_subclass(Tensor))
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.einsum and not options and isinstance(args[0], str):
                operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
                summed = _sum_of_windows(args[0], operands)
                if summed is not None:
                    return summed
            result = func(*args, **options)
            if func in _FOLLOWED and args and _remembers(args[0]):
                memory = _followed(func, args, options, result)
                if memory is not None:
                    return _remembering(result, memory)
            return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As a plain tensor, which any program can load."""
        plain = self.as_subclass(Tensor)
        plain.__dict__.update(_lasting(self))
        return plain.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            copied = self.detach().clone().as_subclass(PatternTensor)
        memo[id(self)] = copied
        copied.__dict__.update(_lasting(self))
        return copied


def _lasting(tensor: Tensor) -> dict[str, Any]:
    """What a user put on a tensor: memories, which hold for one version of it, don't go to copies."""
    return {name: value for name, value in vars(tensor).items() if not name.startswith("_einfx")}


def as_pattern_tensor(tensor: Tensor, pattern: IndexPattern) -> Tensor:
    """A tensor that is ``pattern``, shape: (kernel, output, input), as one that remembers it."""
    return _remembering(tensor, _Memory(pattern, _PROBE, 1.0, tensor._version))


def _remembering(tensor: Tensor, memory: _Memory) -> Tensor:
    made = tensor.as_subclass(PatternTensor)
    made.__dict__.update(vars(tensor))
    made._einfx_memory = memory
    return made


def _remembers(tensor: object) -> bool:
    """Whether a tensor is still what it remembers to be."""
    if not isinstance(tensor, PatternTensor) or tensor._einfx_memory is None:
        return False
    return tensor._einfx_memory.version == tensor._version


def _followed(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
) -> _Memory | None:
    """What the result of a sum, mean or transpose of a pattern is; None where that has no name."""
    before: _Memory = args[0]._einfx_memory
    if result.dtype != args[0].dtype or not result.is_floating_point():
        return None
    axes = _axes_after(
        func,
        before.axes,
        hashable(args[1:]),
        tuple((name, hashable(value)) for name, value in kwargs.items()),
    )
    gone = set(before.axes) - set(axes)
    if not set(axes) <= set(before.axes) or not gone <= {_OUTPUT}:
        return None
    scale = before.scale / before.pattern.output_size if gone and func in _MEANS else before.scale
    return _Memory(before.pattern, axes, scale, result._version)


@lru_cache(maxsize=256)
def _axes_after(
    func: Callable[..., Any],
    axes: tuple[int, ...],
    args: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
) -> tuple[int, ...]:
    """The axes after a function: on a small tensor, where they can be told apart by their sizes."""
    with torch._C.DisableTorchFunctionSubclass():
        return tuple(func(torch.empty(axes), *args, **dict(kwargs)).shape)


def _sum_of_windows(equation: str, operands: Sequence[Tensor]) -> Tensor | None:
    """One tensor contracted with weights of windows along some of its dimensions; None for all else."""
    memories = [operand._einfx_memory if _remembers(operand) else None for operand in operands]  # type: ignore[attr-defined]
    others = [position for position, memory in enumerate(memories) if memory is None]
    if len(others) != 1:
        return None
    x = operands[others[0]]
    if not x.is_floating_point():
        return None
    for weights in operands:
        if weights is not x and (
            weights.requires_grad or (weights.dtype, weights.device) != (x.dtype, x.device)
        ):
            return None
    known = tuple(None if memory is None else memory[:3] for memory in memories)
    plan = _plan(equation, tuple(x.shape), known)
    if plan is None:
        return None
    ordered = x.permute(plan.order)
    lead, sizes = ordered.shape[: plan.kept], ordered.shape[plan.kept :]
    sums = sum_windows(ordered.reshape(1, prod(lead), *sizes), plan.patterns)
    sums = sums if plan.scale == 1 else sums * plan.scale
    return sums.reshape(*lead, *sums.shape[2:]).permute(plan.output)


class _Plan(NamedTuple):
    """How windows are summed: the input's dimensions in order, how many of them are kept, the output's."""

    order: tuple[int, ...]
    kept: int
    patterns: tuple[IndexPattern, ...]
    scale: float
    output: tuple[int, ...]


@lru_cache(maxsize=1024)
def _plan(
    equation: str,
    shape: tuple[int, ...],
    known: tuple[tuple[IndexPattern, tuple[int, ...], float] | None, ...],
) -> _Plan | None:
    """How to sum windows for a contraction; None where it does anything else.

    Args:
        equation: what is contracted.
        shape: the shape of the one operand that is no pattern.
        known: for each operand the pattern, the axes and the scale of weights, or None for that one.
    """
    try:
        parsed = Equation.parse(equation, [len(shape) if item is None else len(item[1]) for item in known])
    except EquationError:
        return None
    if len(parsed.inputs) != len(known):
        return None
    labels = parsed.inputs[known.index(None)]
    patterns: dict[int, IndexPattern] = {}  # by the label of the input
    kernels: dict[int, int] = {}
    scale = 1.0
    for item, own in zip(known, parsed.inputs, strict=True):
        if item is None:
            continue
        pattern, axes, factor = item
        if set(axes) != {_KERNEL, _INPUT}:
            return None
        label = dict(zip(axes, own, strict=True))
        slid = label[_INPUT]
        if slid not in labels or slid in patterns or shape[labels.index(slid)] != pattern.input_size:
            return None
        patterns[slid], kernels[slid] = pattern, label[_KERNEL]
        scale *= factor
    # In front what is kept, behind what windows slide over.
    front = [label for label in labels if label not in patterns]
    behind = [label for label in labels if label in patterns]
    made = [*front, *(kernels[label] for label in behind)]
    distinct = len(set(labels)) == len(labels) and len(set(made)) == len(made)
    if not distinct or set(made) & set(behind) or sorted(made) != sorted(parsed.output):
        return None
    return _Plan(
        tuple(labels.index(label) for label in (*front, *behind)),
        len(front),
        tuple(patterns[label] for label in behind),
        scale,
        tuple(made.index(label) for label in parsed.output),
    )
