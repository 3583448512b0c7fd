"""Contractions over a semiring whose addition selects: values, where they are, and what the gradient needs.

The derivative of a selected term is that of a product of a few elements. So the elements that were selected
are gathered from every operand and multiplied again by ordinary torch functions: derivatives of every order
and kind follow, and nothing but places is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..accumulators import State, best_of
from ..algebra import Semiring
from ..machine import accumulation_dtype
from ..modes import is_captured
from ..semiring import get, semirings
from .batching import apply, tracked
from .blocked_loops import Block, Kernel, Limits, Subscripts, digits, view_along, walk
from .blocked_products import REDUCTIONS, buffer_dtype, bytes_per_term, products
from .blocked_sums import to_front
from .selected_product import selected_product

__all__ = ["Selection", "gathered", "select"]


class Selection(NamedTuple):
    """What to select.

    Args:
        subscripts: the labels of operands and result.
        semiring: its addition selects.
        limits: of blocks.
        dtype: of the values.
    """

    subscripts: Subscripts
    semiring: Semiring
    limits: Limits
    dtype: torch.dtype

    def as_text(self) -> str | None:
        """As text, for an operator that takes no other description; None if the semiring has no name."""
        known = semirings().get(self.semiring.name)
        if known is None or known.annihilating(self.semiring.zero_annihilates) != self.semiring:
            return None
        block_size = self.limits.block_size
        return ";".join(
            (
                self.subscripts.as_text(),
                "" if block_size is None else digits(block_size),
                digits(self.limits.budget_bytes),
                str(self.dtype).removeprefix("torch."),
                "1" if self.semiring.zero_annihilates else "0",
                self.semiring.name,
            )
        )

    @classmethod
    def from_text(cls, text: str) -> Selection:
        """Undo :meth:`as_text`."""
        subscripts, block_size, budget, dtype, annihilate, name = text.split(";", 5)
        limits = Limits(int(block_size) if block_size else None, int(budget))
        semiring = get(name).annihilating(annihilate == "1")
        return cls(Subscripts.from_text(subscripts), semiring, limits, getattr(torch, dtype))


def select(selection: Selection, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Values and places, without derivatives.

    Args:
        selection: what to select.
        tensors: of the labels that it says; every sum has a term.

    Returns:
        Values, and int64 places in a further last dimension: for every summed label, its number in the first
        of the terms that equal the value.
    """
    if is_captured():
        tensors = tuple([x.detach() for x in tensors])
        text = selection.as_text()
        if text is None:
            return _at_once(selection, tensors)
        values, places = torch.ops.einfx.blocked_select(list(tensors), text)
        return values, places
    if tracked(*tensors):
        values, places = apply(_Select, selection, *(x.detach() for x in tensors))
        return values, places
    return _compute(selection, tensors)


def gathered(selection: Selection, places: Tensor, *tensors: Tensor) -> Tensor:
    """The product of the selected elements, as a differentiable function of the operands.

    Args:
        selection: as for :func:`select`.
        places: as it gave them.
        tensors: the operands.

    Returns:
        Values of the labels of the output.
    """
    output, summed = selection.subscripts.output, selection.subscripts.summed
    dtype = accumulation_dtype(selection.dtype)
    product: Tensor | None = None
    for labels, tensor in zip(selection.subscripts.inputs, tensors, strict=True):
        chosen = _chosen(labels, tensor, places, output, summed).to(dtype)
        product = chosen if product is None else selected_product(selection.semiring, product, chosen)
    assert product is not None
    return product.expand(places.shape[:-1]).to(selection.dtype)


def _chosen(
    labels: tuple[int, ...], tensor: Tensor, places: Tensor, output: tuple[int, ...], summed: tuple[int, ...]
) -> Tensor:
    """The elements at ``places``, with the dimensions of the output, of size 1 where the tensor lacks one."""
    if not is_captured() and not tracked(tensor):
        # An expanded dimension has one element; to make many of it would take memory. Each has a gradient.
        for dim in reversed(range(len(labels))):
            if tensor.stride(dim) == 0:
                tensor = tensor.select(dim, 0)
                labels = labels[:dim] + labels[dim + 1 :]
    if not set(labels) & set(summed):
        tensor = tensor.permute([labels.index(x) for x in output if x in labels])
        for dim, label in enumerate(output):
            tensor = tensor if label in labels else tensor.unsqueeze(dim)
        return tensor
    at = torch.zeros((), dtype=torch.int64, device=places.device)
    stride = 1
    for label, size in reversed(list(zip(labels, tensor.shape, strict=True))):
        if label in summed:
            index = places.select(-1, summed.index(label))
        else:
            dim = output.index(label)
            index = torch.arange(size, device=places.device).reshape([-1, *[1] * (len(output) - 1 - dim)])
        at = at + index * stride
        stride *= size
    at = at.expand(places.shape[:-1])
    return tensor.reshape(-1).gather(0, at.reshape(-1)).reshape(at.shape)


class _Select(torch.autograd.Function):
    """Values and places, both without derivatives."""

    @staticmethod
    def forward(selection: Selection, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return _compute(selection, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], selection: Selection, *tensors: Tensor) -> Any:
        mapped = selection._replace(subscripts=selection.subscripts.mapped(in_dims[1:]))
        return apply(_Select, mapped, *to_front(tensors, in_dims[1:])), (0, 0)


def _compute(selection: Selection, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Values and places of plain tensors."""
    values, places = walk(selection.subscripts, tensors, _kernel(selection, tensors), selection.limits)
    return values, places


def _kernel(selection: Selection, tensors: Sequence[Tensor]) -> Kernel:
    """Its partial sum is a value, and the value's place in the order of all terms."""
    semiring, dtype = selection.semiring, accumulation_dtype(selection.dtype)
    sizes = selection.subscripts.sizes(tensors)
    summed = tuple(sizes[label] for label in selection.subscripts.summed)

    def block(parts: list[Tensor], dims: tuple[int, ...], buffer: Tensor | None, ranges: Block) -> State:
        terms = products(semiring, parts, dtype, buffer)
        terms = terms.flatten(terms.ndim - len(dims)) if dims else terms.unsqueeze(-1)
        value, local = best_of(semiring.addition, terms, -1)
        if terms.shape[-1] == 1:
            # It may be a view of the buffer, or of an operand.
            value = value.clone()
        place = torch.zeros_like(local)
        stride = 1
        for size, (start, length) in zip(reversed(summed), reversed(ranges.values()), strict=True):
            place += (local % length + start) * stride
            local = local // length
            stride *= size
        return value, place

    def earlier(left: State, right: State) -> State:
        """The better of two, and of equal ones the one with the smaller place."""
        total = semiring.addition(left[0], right[0])
        tie = ((left[0] == right[0]) | ((left[0] != left[0]) & (right[0] != right[0]))) & (right[1] < left[1])
        taken = ((total != left[0]) & (left[0] == left[0])) | tie
        return torch.where(taken, right[0], left[0]), torch.where(taken, right[1], left[1])

    return Kernel(
        ((selection.dtype, ()), (torch.int64, (len(summed),))),
        semiring.zero_of(selection.dtype),
        # Elsewhere, indices and masks are halved along with the terms.
        bytes_per_term(semiring, tensors, dtype) + (4 if semiring.addition in REDUCTIONS else 26),
        4 * dtype.itemsize + 8 * (6 + 2 * len(summed)),
        block,
        lambda states: functools.reduce(earlier, states),
        lambda state: (state[0], _by_label(state[1], summed)),
        buffer_dtype(semiring, tensors, dtype),
        summed_last=True,
    )


def _by_label(place: Tensor, sizes: Sequence[int]) -> Tensor:
    """An index for each summed label, in a last dimension."""
    indices = []
    for size in reversed(sizes):
        indices.append(place % size)
        place = place // size
    return torch.stack(indices[::-1], -1) if indices else place.new_empty((*place.shape, 0))


def _at_once(selection: Selection, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Values and places from all terms at once, in torch functions that a compiler follows."""
    subscripts, semiring = selection.subscripts, selection.semiring
    order = (*subscripts.output, *subscripts.summed)
    parts = [view_along(x, labels, order) for labels, x in zip(subscripts.inputs, tensors, strict=True)]
    terms = products(semiring, parts, accumulation_dtype(selection.dtype), None)
    outputs = len(subscripts.output)
    flat = terms.flatten(outputs) if subscripts.summed else terms.unsqueeze(-1)
    value, place = best_of(semiring.addition, flat, -1)
    return value.to(selection.dtype), _by_label(place, terms.shape[outputs:])


@torch.library.custom_op("einfx::blocked_select", mutates_args=())
def _operator(tensors: Sequence[Tensor], selection: str) -> tuple[Tensor, Tensor]:
    return _compute(Selection.from_text(selection), tensors)


@_operator.register_fake
def _(tensors: Sequence[Tensor], selection: str) -> tuple[Tensor, Tensor]:
    known = Selection.from_text(selection)
    sizes = known.subscripts.sizes(tensors)
    shape = [sizes[x] for x in known.subscripts.output]
    values = tensors[0].new_empty(shape, dtype=known.dtype)
    return values, values.new_empty((*shape, len(known.subscripts.summed)), dtype=torch.int64)
