"""What the algorithms of this folder check and ask of the semiring that they're given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algebra import Semiring
from ..errors import OperandError
from ..semiring import get

__all__ = ["lengths_of", "options_of", "require_shapes"]


def require_shapes(**tensors: tuple[Tensor, str]) -> dict[str, int]:
    """Sizes by name, from the shapes of tensors.

    Args:
        **tensors: each with the names of its dimensions, divided by spaces.

    Returns:
        The sizes.

    Raises:
        OperandError: a tensor has another number of dimensions, or two sizes of one name differ.

    Example:
        >>> require_shapes(scores=(torch.ones(2, 3), "B S"), initial=(torch.ones(3), "S"))
        {'B': 2, 'S': 3}
    """
    found: dict[str, int] = {}
    for name, (tensor, dimensions) in tensors.items():
        labels = dimensions.split()
        wanted = f"({', '.join(labels)}{',' if len(labels) == 1 else ''})"
        if not isinstance(tensor, Tensor):
            raise OperandError(f"{name} is a tensor of the shape {wanted}, not {tensor!r}")
        if tensor.ndim != len(labels):
            raise OperandError(f"{name} has the shape {wanted}, not {tuple(tensor.shape)}")
        for label, size in zip(labels, tensor.shape, strict=True):
            if found.setdefault(label, size) != size:
                expected = f"{wanted} where {label} is {found[label]}"
                raise OperandError(f"{name} has the shape {expected}, not {tuple(tensor.shape)}")
    return found


def lengths_of(lengths: Tensor | None, batch: int, longest: int, device: torch.device) -> Tensor:
    """How long each sequence of a batch is.

    Args:
        lengths: (B,), integers from 1 to ``longest``; None where all sequences have that length.
        batch: B.
        longest: the length of the padded sequences.
        device: where the result is.

    Returns:
        (B,) int64.

    Raises:
        OperandError: another shape, or lengths out of range.

    Example:
        >>> lengths_of(None, 2, 7, torch.device("cpu"))
        tensor([7, 7])
    """
    if longest < 1:
        raise OperandError("the sequences have no elements; an empty one has no first state")
    if lengths is None:
        return torch.full((batch,), longest, device=device)
    if tuple(lengths.shape) != (batch,) or lengths.dtype.is_floating_point or lengths.dtype == torch.bool:
        raise OperandError(
            f"lengths is one integer for each of the {batch} sequences, "
            f"not {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
    if batch and not 1 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise OperandError(f"lengths are from 1 to {longest}, not {lengths.tolist()}")
    return lengths.to(device, torch.int64)


def options_of(semiring: str | Semiring) -> dict[str, Any]:
    """Keywords for ``einfx.einsum``.

    Over ``"log"`` what is impossible, a sum that is -inf, gets gradient 0: its posterior.

    Example:
        >>> options_of("log"), options_of("max_plus")
        ({'semiring': 'log', 'grad_of_neg_inf': 0.0}, {'semiring': 'max_plus'})
    """
    options: dict[str, Any] = {"semiring": semiring}
    if get(semiring).name == "log":
        options["grad_of_neg_inf"] = 0.0
    return options
