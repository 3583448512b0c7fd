"""Derivatives in a direction over semirings that select: those of the product of what was selected.

Where the terms come from is found within the limit, once for each derivative; the product of these few
numbers for each element of the result is a function that torch differentiates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ...errors import MemoryLimitError
from ...plans import size_text
from .places import bytes_beside, gathered, places_of, selected

__all__ = ["require_room", "selected_second", "selected_tangent"]

Flags = tuple[bool, ...]


def require_room(problem: Any, operands: Sequence[Tensor], passes: int) -> None:
    """Check that gathering what was selected stays within the limit.

    Args:
        problem: the contraction, a :class:`.problem.Problem`.
        operands: of it.
        passes: how often as much is gathered as the contraction itself takes.

    Raises:
        MemoryLimitError: it doesn't.
    """
    elements = problem.result_bytes(operands) // operands[0].element_size()
    needed = passes * bytes_beside(operands, elements)
    if needed > problem.options.memory_limit - problem.beside:
        _refuse(problem, needed)


def _refuse(problem: Any, more: int) -> NoReturn:
    limit, needed = problem.options.memory_limit, problem.beside + more
    raise MemoryLimitError(
        f"einsum {str(problem.equation)!r} over {problem.options.semiring.name!r} with derivatives of what "
        f"is selected: memory_limit={limit} ({size_text(limit)}) is too little; beside its operands it "
        f"needs {needed} bytes ({size_text(needed)}), as far as was found",
        needed,
    )


def selected_tangent(
    problem: Any, moving: Flags, direction: Sequence[Tensor], operands: Sequence[Tensor]
) -> Tensor:
    """The derivative of a contraction in a direction; arguments as of :func:`.log_directions.log_tangent`.

    Raises:
        MemoryLimitError: the places of the terms, or the terms, don't stay within the limit.
    """
    elements = problem.result_bytes(operands)
    _, places = places_of(problem, operands)
    made = torch.empty(places.shape, dtype=operands[0].dtype, device=places.device)
    limited = problem.leaving(elements + places.numel() * places.element_size())
    for part in _parts(limited, operands, places, 2):
        along = part.of(
            direction, [x for x, moves in zip(problem.equation.inputs, moving, strict=True) if moves]
        )
        here = part.of(operands, problem.equation.inputs)
        part.of([made], [problem.equation.output])[0].copy_(
            _along(problem, moving, along, here, part.of([places], [problem.equation.output])[0])
        )
    return made


def selected_second(
    problem: Any,
    wanted: Flags,
    moving: Flags,
    gradient: Tensor,
    direction: Sequence[Tensor],
    operands: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """The gradients of the derivative in a direction; arguments as of :func:`.log_directions.log_second`.

    Raises:
        MemoryLimitError: as :func:`selected_tangent`.
    """
    returned = sum(x.numel() * x.element_size() for x, want in zip(operands, wanted, strict=True) if want)
    problem = problem.leaving(2 * returned)
    _, places = places_of(problem, operands)
    chosen = [i for i, want in enumerate(wanted) if want]
    equation, totals = problem.equation, [torch.zeros_like(operands[i]) for i in chosen]
    everything = [*operands]
    for position in chosen:
        everything[position] = operands[position].detach().requires_grad_()
    wished = [everything[i] for i in chosen]
    moved = [x for x, moves in zip(equation.inputs, moving, strict=True) if moves]
    limited = problem.leaving(places.numel() * places.element_size())
    for part in _parts(limited, operands, places, 4):
        with torch.enable_grad():
            here = part.of(everything, equation.inputs)
        inside, incoming = part.of([places, gradient], [equation.output] * 2)
        made = _along(problem, moving, part.of(direction, moved), here, inside)
        if made.requires_grad:
            incoming = incoming.to(operands[0].dtype)
            found = torch.autograd.grad([made], wished, [incoming], allow_unused=True)
            for total, one in zip(totals, found, strict=True):
                if one is not None:
                    total.add_(one)
    return tuple(totals)


class _Part(NamedTuple):
    """A range of a label; all that has it is cut."""

    label: int
    start: int
    length: int

    def of(self, tensors: Sequence[Tensor], labels: Sequence[Sequence[int]]) -> list[Tensor]:
        """Tensors of these labels, cut."""
        return [
            x.narrow([*own].index(self.label), self.start, self.length) if self.label in own else x
            for x, own in zip(tensors, labels, strict=True)
        ]


def _parts(problem: Any, operands: Sequence[Tensor], places: Tensor, passes: int) -> Iterator[_Part]:
    """Ranges of the longest label of the result, for each of which what is gathered stays within the limit.

    Raises:
        MemoryLimitError: for none it does.
    """
    output = problem.equation.output
    if not output:
        require_room(problem, operands, passes)
        yield _Part(-1, 0, 0)
        return
    dim = max(range(len(output)), key=lambda x: places.shape[x])
    size = places.shape[dim]
    each = passes * bytes_beside(operands, places.numel() // max(size, 1))
    left = problem.options.memory_limit - problem.beside
    if each > left:
        _refuse(problem, each)
    length = max(left // max(each, 1), 1)
    for start in range(0, size, length):
        yield _Part(output[dim], start, min(length, size - start))


def _along(
    problem: Any, moving: Flags, direction: Sequence[Tensor], operands: Sequence[Tensor], places: Tensor
) -> Tensor:
    """The derivative, as the gradient of gradients, which are linear in what they start from."""
    given = iter(direction)
    tangents = [next(given) if moves else None for moves in moving]
    with torch.enable_grad():
        factors = gathered(problem.equation, operands, operands, places)
        factors = [x if x.requires_grad else x.detach().requires_grad_() for x in factors]
        along = gathered(problem.equation, operands, tangents, places)
        made = selected(problem.options, factors, places.shape)
        start = torch.zeros_like(made, requires_grad=True)
        moved = [x for x, moves in zip(factors, moving, strict=True) if moves]
        shares = torch.autograd.grad(made, moved, start, create_graph=True)
        return torch.autograd.grad(shares, start, along, create_graph=True)[0]
