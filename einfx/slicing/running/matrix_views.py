"""Tensors as batches of matrices: which of them BLAS reads and writes as they lie, and as what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from ...costs.step_kernel import Kernel

__all__ = [
    "Place",
    "Scratch",
    "grouped",
    "lies_as_matrices",
    "matrix_order",
    "merged",
    "readable",
    "writable",
]

Sizes = tuple[int, ...]

Scratch = Callable[[Sequence[int]], Tensor]
"""Gives memory for a tensor of a shape, until the contraction is done."""


@dataclass(frozen=True)
class Place:
    """The shape and the strides of a tensor or a part of one."""

    shape: Sizes
    strides: Sizes


def merged(place: Place, labels: Sequence[int], groups: Sequence[Sequence[int]]) -> Place | None:
    """A tensor with one dimension for each group of labels, if it is a view."""
    shape, strides = [], []
    where = {label: dim for dim, label in enumerate(labels)}
    for group in groups:
        dims = [where[label] for label in group if label in where and place.shape[where[label]] != 1]
        for outer, inner in pairwise(dims):
            if place.strides[outer] != place.strides[inner] * place.shape[inner]:
                return None
        shape.append(prod([place.shape[dim] for dim in dims]))
        strides.append(place.strides[dims[-1]] if dims else 1)
    return Place(tuple(shape), tuple(strides))


def readable(place: Place) -> bool:
    """Whether BLAS reads a batch of matrices as it lies."""
    (_, rows, columns), (_, down, across) = place.shape, place.strides
    return (
        (across == 1 and down >= max(columns, 1))
        or (down == 1 and across >= max(rows, 1))
        or 1 in (rows, columns)
    )


def writable(place: Place) -> bool:
    """Whether BLAS writes a batch of matrices where they are to be."""
    (_, rows, columns), (_, down, across) = place.shape, place.strides
    return (across == 1 or columns == 1) and (down >= max(columns, 1) or rows == 1)


def lies_as_matrices(place: Place, labels: Sequence[int], groups: Sequence[Sequence[int]]) -> bool:
    """Whether BLAS reads a tensor as a batch of matrices as it lies."""
    made = merged(place, labels, groups)
    return made is not None and readable(made)


def grouped(place: Place, labels: Sequence[int], groups: Sequence[Sequence[int]]) -> Place:
    """A tensor, of which this is known to be a view, with one dimension for each group of labels."""
    return _grouped(place, tuple(labels), tuple([tuple(group) for group in groups]))


@lru_cache(maxsize=65536)
def _grouped(place: Place, labels: Sizes, groups: tuple[Sizes, ...]) -> Place:
    """As torch tells it, whose functions for matrices look at strides along dimensions of size 1 too."""
    order = [label for group in groups for label in group if label in labels]
    unit = [label for label in labels if label not in order]
    where = {label: dim for dim, label in enumerate(labels)}
    lengths = [prod([place.shape[where[label]] for label in group if label in where]) for group in groups]
    tensor = torch.empty_strided(place.shape, place.strides, device="meta")
    made = tensor.permute([where[label] for label in (*order, *unit)]).view(lengths)
    return Place(tuple(made.shape), made.stride())


def matrix_order(kernel: Kernel, output: Sequence[int]) -> list[int]:
    """The labels of a result as a product of matrices has them, those of size 1 that it lacks last."""
    order = [label for group in (kernel.batch, kernel.rows, kernel.columns) for label in group]
    if kernel.swapped:
        order = [*kernel.batch, *kernel.columns, *kernel.rows]
    return order + [label for label in output if label not in order]
