"""Pattern tensors that ``torch.einsum`` knows as patterns, also after they were averaged over their outputs.

Contractions with patterns are native convolutions, windows and sums of windows. Second-order optimizers
(singd, curvlinops) average each pattern over its outputs and contract the input with the averages. That sums
every window of the input, which needs no matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...conv.parameters import hashable
from ...pattern import IndexPattern
from .einsums import AXES, OUTPUT, Memory, contracted

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


class PatternTensor(Tensor):
    """An index pattern as a tensor, which knows its sum and its mean over outputs, and their transposes.

    ``torch.einsum`` with patterns is computed as :func:`einfx.einsum` does, and with such means by summing
    windows. All else gives plain tensors.

    Example:
        >>> from einfx.compat.einconv import index_pattern
        >>> pattern = index_pattern(5, 3, dtype=torch.float64)
        >>> x = torch.arange(10.0, dtype=torch.float64).view(2, 5)
        >>> torch.einsum("ni,ki->nk", x, pattern.mean(1))
        tensor([[1., 2., 3.],
                [6., 7., 8.]], dtype=torch.float64)
    """

    _einfx_memory: Memory | None = None

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The function on plain tensors, but for contractions."""
        options = kwargs or {}
        if func is Tensor.__repr__:
            return repr(args[0].as_subclass(Tensor))
        with torch._C.DisableTorchFunctionSubclass():
            if torch.compiler.is_compiling():
                return func(*args, **options)
            if func is torch.einsum and not options and isinstance(args[0], str):
                operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
                known = [operand._einfx_memory if _remembers(operand) else None for operand in operands]
                found = contracted(args[0], operands, known)
                if found is not None:
                    return found
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
    return _remembering(tensor, Memory(pattern, AXES, 1.0, tensor._version))


def _remembering(tensor: Tensor, memory: Memory) -> Tensor:
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
) -> Memory | None:
    """What the result of a sum, mean or transpose of a pattern is; None where that has no name."""
    before: Memory = args[0]._einfx_memory
    if result.dtype != args[0].dtype or result.is_inference():
        return None
    axes = _axes_after(
        func,
        before.axes,
        hashable(args[1:]),
        tuple((name, hashable(value)) for name, value in kwargs.items()),
    )
    gone = set(before.axes) - set(axes)
    if not set(axes) <= set(before.axes) or not gone <= {OUTPUT}:
        return None
    scale = before.scale / before.pattern.output_size if gone and func in _MEANS else before.scale
    return Memory(before.pattern, axes, scale, result._version)


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
