"""Tensors as batches of matrices: which of them BLAS reads and writes as they lie, and copies of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from .tiles import in_tiles

__all__ = ["Place", "Scratch", "as_row", "grouped", "matrix", "merged", "readable", "writable"]

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


@lru_cache(maxsize=65536)
def _lies_as_matrices(shape: Sizes, strides: Sizes, labels: Sizes, groups: tuple[Sizes, ...]) -> bool:
    """Whether BLAS reads a tensor as a batch of matrices as it lies."""
    made = merged(Place(tuple(shape), strides), labels, groups)
    return made is not None and readable(made)


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


def grouped(tensor: Tensor, labels: Sequence[int], groups: Sequence[Sizes]) -> Tensor:
    """A view of a tensor with one dimension for each group of labels."""
    return tensor.as_strided(*_view(tensor.shape, tensor.stride(), tuple(labels), tuple(groups)))


@lru_cache(maxsize=65536)
def _view(shape: Sizes, strides: Sizes, labels: Sizes, groups: tuple[Sizes, ...]) -> tuple[Sizes, Sizes]:
    """The shape and the strides of that; a loop asks for the same ones in every iteration."""
    order = [label for group in groups for label in group if label in labels]
    unit = [label for label in labels if label not in order]
    where = {label: dim for dim, label in enumerate(labels)}
    lengths = [prod([shape[where[label]] for label in group if label in where]) for group in groups]
    tensor = torch.empty_strided(shape, strides, device="meta")
    made = tensor.permute([where[label] for label in (*order, *unit)]).view(lengths)
    return tuple(made.shape), made.stride()


def as_row(column: Tensor) -> Tensor:
    """A batch of columns as one of rows."""
    return column.squeeze(2).unsqueeze(1)


def matrix(tensor: Tensor, labels: Sequence[int], groups: Sequence[Sizes], scratch: Scratch) -> Tensor:
    """A tensor as a batch of matrices; copied where it doesn't lie as BLAS reads it."""
    if _lies_as_matrices(tensor.shape, tensor.stride(), tuple(labels), tuple(groups)):
        return grouped(tensor, labels, groups)
    order = [label for group in groups for label in group]
    unit = [label for label in labels if label not in order]
    where = {label: dim for dim, label in enumerate(labels)}
    arranged = tensor.permute([where[label] for label in (*order, *unit)])
    copy = scratch(arranged.shape)
    in_tiles(Tensor.copy_, copy, [arranged], scratch)
    return copy.view([prod([tensor.shape[where[label]] for label in group]) for group in groups])
