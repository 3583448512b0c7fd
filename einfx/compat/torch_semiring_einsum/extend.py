"""Sums of products over any semiring, block by block, with an addition and a multiplication of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .block_size import BlockSize, checked, term_ranges
from .equation import Equation

__all__ = ["semiring_einsum_forward"]


def semiring_einsum_forward(
    equation: Equation,
    args: Sequence[Tensor],
    block_size: BlockSize,
    func: Callable[[Callable[..., Any]], Any],
) -> Any:
    """Contract tensors with callbacks for addition and multiplication.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        block_size: the longest range of each summed variable in a block, or an
            :class:`.block_size.AutomaticBlockSize`.
        func: called once, with a function ``compute_sum(add_in_place, sum_block, multiply_in_place,
            include_indexes=False, output_dtypes=(None,))`` that goes once through all terms. It may call it
            several times. ``multiply_in_place(a, b)`` multiplies ``b`` into a tensor of its own ``a``, with
            the dimensions of the output, then those of the summed variables; ``b`` has them too, or 1.
            ``sum_block(a, dims)`` sums them; it may change ``a`` and return a view of it. Sums of different
            blocks meet in ``add_in_place(a, b)``, which changes ``a``; they are whatever ``sum_block``
            returns. With ``include_indexes`` it is called with a third argument, the slice of each summed
            variable. ``output_dtypes`` are those of the tensors in a sum (None: as the operands), for
            automatic block sizes.

    Returns:
        What ``func`` returns.

    Raises:
        OperandError: the operands don't fit the equation.
        UsageError: ``block_size`` isn't one.

    A variable of size 0 makes one block without elements. Nothing of the operands is written to.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation, utils
        >>> def longest_paths(compute_sum):
        ...     return compute_sum(utils.max_in_place, utils.max_block, utils.add_in_place)
        >>> a = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
        >>> semiring_einsum_forward(compile_equation("ik,kj->ij"), (a, a), 1, longest_paths)
        tensor([[4., 3.],
                [1., 4.]])
    """
    equation.validate_sizes(args)
    block_size = checked(block_size)
    passes = _Passes(equation, args, block_size)
    return func(passes.compute_sum)


class _Passes:
    """The operands of one call, seen with a dimension for every variable: the output's, then the summed."""

    def __init__(self, equation: Equation, args: Sequence[Tensor], block_size: BlockSize) -> None:
        labels = equation.compiled
        sizes = labels.sizes([arg.shape for arg in args])
        self.output = [sizes[label] for label in labels.output]
        self.summed = [sizes[label] for label in labels.summed]
        self.block_size = block_size
        order = (*labels.output, *labels.summed)
        self.views = [aligned(arg, own, order) for arg, own in zip(args, labels.inputs, strict=True)]

    def compute_sum(
        self,
        add_in_place: Callable[[Any, Any], Any],
        sum_block: Callable[..., Any],
        multiply_in_place: Callable[[Tensor, Tensor], Any],
        include_indexes: bool = False,
        output_dtypes: Sequence[torch.dtype | None] = (None,),
    ) -> Any:
        first = len(self.output)
        dims = tuple(range(first, first + len(self.summed)))
        ranges = term_ranges(self.block_size, self.output, self.summed, self.views[0], output_dtypes)
        total: Any = None
        for number, block in enumerate(self._blocks(ranges)):
            term = self._term(block, multiply_in_place)
            part = sum_block(term, dims, block) if include_indexes else sum_block(term, dims)
            del term
            if number == 0:
                total = part
            else:
                add_in_place(total, part)
        return total

    def _blocks(self, ranges: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """All blocks of the summed variables, in order."""
        cuts = []
        for size, length in zip(self.summed, ranges, strict=True):
            starts = range(0, max(1, size), length)
            cuts.append([slice(start, min(start + length, size)) for start in starts])
        yield from itertools.product(*cuts)

    def _term(self, block: Sequence[slice], multiply_in_place: Callable[[Tensor, Tensor], Any]) -> Tensor:
        """The products of one block, in a tensor that is nobody else's."""
        shape = [*self.output, *(where.stop - where.start for where in block)]
        parts = (_part(view, block) for view in self.views)
        term = next(parts).expand(shape).clone(memory_format=torch.contiguous_format)
        for part in parts:
            multiply_in_place(term, part)
        return term


def aligned(operand: Tensor, labels: Sequence[int], order: Sequence[int]) -> Tensor:
    """A view of an operand with a dimension for every label of an order, of size 1 where it lacks it.

    Example:
        >>> aligned(torch.ones(2, 3), (1, 0), (0, 1, 2)).shape, aligned(torch.ones(2, 2), (4, 4), (4,)).shape
        (torch.Size([3, 2, 1]), torch.Size([2]))
    """
    own = list(labels)
    for label in dict.fromkeys(labels):
        while own.count(label) > 1:
            first = own.index(label)
            second = own.index(label, first + 1)
            operand = operand.diagonal(0, first, second)
            own = [x for dim, x in enumerate(own) if dim not in (first, second)] + [label]
    operand = operand.permute([own.index(label) for label in order if label in own])
    for dim, label in enumerate(order):
        if label not in own:
            operand = operand.unsqueeze(dim)
    return operand


def _part(view: Tensor, block: Sequence[slice]) -> Tensor:
    first = view.ndim - len(block)
    for dim, where in enumerate(block, first):
        if view.shape[dim] != 1:
            view = view.narrow(dim, where.start, where.stop - where.start)
    return view
