"""Contractions with symbolic index patterns over any semiring: morphology, Viterbi filters, log convolutions.

The ones of a pattern are the one of the semiring, its zeros the zero, and what meets a zero is left out.
So no zero has to take part at all: a pattern is cut into boxes of ones, in which tensors are seen through
windows, and an einsum over the semiring computes each. Where nothing can tell the difference, a margin of
zeros around the tensor makes one box of all.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...dispatch import contract
from ...equation import Equation
from ...errors import MemoryLimitError, UsageError
from ...kernels.batching import tracked
from ...modes import is_captured
from ...options import Options
from ...pattern import IndexPattern
from ...semiring_dispatch import contract_over
from .assembly import Blank, Result, placed, side_by_side
from .boxes import Box, boxes, phases
from .calls import read_problem
from .joins import Group, Table, grouped, joined
from .margins import ones_vector, with_all_margins
from .problem import Lookup, Met, Problem

__all__ = ["contract_semiring"]


def contract_semiring(
    token: Any,
    operands: Sequence[Tensor | IndexPattern],
    options: Options,
    optimize: Any = "auto",
    return_argmax: bool = False,
) -> Any:
    """Contract tensors and symbolic index patterns over a semiring.

    Args:
        token: text, an equation, or whatever :func:`einfx.dispatch.read_equation` reads.
        operands: tensors, and patterns of three dimensions: kernel, output, input.
        options: over which semiring, and how.
        optimize: a strategy's name, for the tensors that patterns leave.
        return_argmax: whether to return the positions of what sums select too, for all summed labels of the
            equation; -1 for a sum that has no terms.

    Returns:
        The result, as :func:`einfx.einsum` gives it for patterns as tensors of the semiring's zero and one,
        but for what is multiplied with a zero of a pattern: that is left out, also where it is nan or
        infinite, as in a convolution with padding. With ``return_argmax`` a pair.

    Raises:
        EquationError, MemoryLimitError: as :func:`einfx.einsum`.
        OperandError: operands that don't fit the equation, or no tensor among them.
        UsageError: a path, which would count patterns as steps.

    Example:
        Grey-scale dilation by a flat structuring element of three: the largest of three neighbours.

        >>> x = torch.tensor([0.0, 5.0, 1.0, 2.0])
        >>> pattern = IndexPattern(4, 3, padding=1)
        >>> contract_semiring("i,koi->o", [x, pattern], Options.read("max_plus"))
        tensor([5., 5., 5., 2.])
    """
    if not isinstance(optimize, str) and isinstance(optimize, (tuple, list)):
        raise UsageError(
            f"optimize={optimize!r}: index patterns aren't contracted in pairs, so a path has no place for "
            "them; name a strategy instead, such as 'auto'"
        )
    tracing = torch._C._get_tracing_state() is not None
    with warnings.catch_warnings() if tracing else nullcontext():
        if tracing:
            # That sizes of one label are equal is checked while tracing, and holds afterwards.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        problem, shape, summed = read_problem(token, operands, options, return_argmax)
        result = _Solver(options, optimize, return_argmax, summed).solve(problem)
    if return_argmax:
        return result.value.reshape(shape), result.places
    return result.value.reshape(shape)


@dataclass(frozen=True)
class _Solver:
    """How all problems of one call are solved.

    Args:
        options: of the call.
        optimize: of the call.
        return_argmax: of the call.
        summed: the labels whose positions an argmax has.
    """

    options: Options
    optimize: Any
    return_argmax: bool
    summed: tuple[int, ...]

    def solve(self, problem: Problem) -> Result:
        """The result, in one box where nothing can tell the difference."""
        padded = self._padded(problem)
        if padded is not None:
            try:
                return self.run(padded)
            except MemoryLimitError:
                padded = None
        return self.run(problem)

    def run(self, problem: Problem) -> Result:
        """The result of a problem, pattern by pattern."""
        for index, met in enumerate(problem.patterns):
            if _seen_through_windows(problem, met):
                return self._by_boxes(problem, index)
        for index, met in enumerate(problem.patterns):
            if _folded(problem, met):
                return self._by_phases(problem, index)
        return self._by_joining(problem) if problem.patterns else self._contracted(problem)

    def _padded(self, problem: Problem) -> Problem | None:
        """The problem with margins of zeros, where they change nothing: no gradient, no argmax, no nan."""
        if self.return_argmax or is_captured() or torch._C._are_functorch_transforms_active():
            return None
        if torch._C._get_tracing_state() is not None or any(tracked(x) for x in problem.tensors):
            return None
        windows = [met for met in problem.patterns if _seen_through_windows(problem, met)]
        if all(met.pattern.unpadded for met in windows):
            return None
        return with_all_margins(problem, windows, self.options)

    def _by_boxes(self, problem: Problem, index: int) -> Result:
        """A pattern whose input is only in tensors, box by box."""
        pattern, (kernel, output, read) = problem.patterns[index][:2]
        if not problem.carriers(read):
            ones = ones_vector(self.options.semiring, problem.tensors[0], pattern.input_size)
            problem = problem.adding(ones, read)
        # Boxes that follow one another along the output are put side by side, others added up.
        by_output = output in problem.output
        if not by_output and kernel not in problem.output:
            by_output = pattern.output_size < pattern.kernel_size
        parts = boxes(pattern, "output" if by_output else "kernel")
        if parts == (Box((0, pattern.output_size), (0, pattern.kernel_size)),):
            return self.run(problem.through_windows(index, parts[0]))
        blank = self._blank(problem)
        if not parts:
            return blank.of(problem.shape)
        held = self._holding(problem)
        results = [self.run(held.through_windows(index, box)) for box in parts]
        along, across = (output, kernel) if by_output else (kernel, output)
        ranges = [box.outputs if by_output else box.kernels for box in parts]
        others = [box.kernels if by_output else box.outputs for box in parts]
        if along not in problem.output:
            return self._sum(problem, results)
        if across in problem.output:
            dim, size = problem.output.index(across), problem.sizes[across]
            results = [
                side_by_side([result], [other], dim, size, blank)
                for result, other in zip(results, others, strict=True)
            ]
        return side_by_side(results, ranges, problem.output.index(along), problem.sizes[along], blank)

    def _by_phases(self, problem: Problem, index: int) -> Result:
        """A pattern whose input is in the output: the phases of its inputs, interleaved."""
        pattern, (_kernel, _output, inputs) = problem.patterns[index][:2]
        parts = phases(pattern)
        if len(parts) == 1 and parts[0].input_length == pattern.input_size:
            return self.run(problem.phase(index, parts[0]))
        if not parts:
            return self._blank(problem).of(problem.shape)
        held = self._holding(problem)
        results = [self.run(held.phase(index, part)) for part in parts]
        positions = [torch.arange(part.input_start, pattern.input_size, part.input_step) for part in parts]
        return placed(
            results, positions, problem.output.index(inputs), pattern.input_size, self._blank(problem)
        )

    def _by_joining(self, problem: Problem) -> Result:
        """Patterns that meet others, or have labels anywhere: what tensors hold where all of them are one."""
        table = joined(tuple((met.pattern, met.labels) for met in problem.patterns))
        kept = tuple(label for label in problem.output if label in table.labels)
        groups = grouped(table, kept, tuple(problem.sizes[label] for label in kept))
        blank = self._blank(problem)
        if not groups:
            return blank.of(problem.shape)
        held = self._holding(problem)
        results = [self._contracted(self._gathered(held, table, group, kept)) for group in groups]
        sizes = [problem.sizes[label] for label in kept]
        whole = placed(results, [group.keys for group in groups], 0, prod(sizes), blank)
        order = [*kept, *(label for label in problem.output if label not in kept)]
        dims = [order.index(label) for label in problem.output]
        value = whole.value.reshape(*sizes, *whole.value.shape[1:]).permute(dims)
        if whole.places is None:
            return Result(value)
        places = whole.places.reshape(*sizes, *whole.places.shape[1:]).permute(*dims, len(dims))
        return Result(value, places)

    def _gathered(self, problem: Problem, table: Table, group: Group, kept: tuple[int, ...]) -> Problem:
        """The problem of one group of outputs, whose labels in the table are two: output and place."""
        output, place = problem.fresh, problem.fresh + 1
        like = problem.tensors[0]
        rows = group.rows.to(like.device)
        columns = {label: rows[..., table.labels.index(label)] for label in table.labels}
        tensors, all_labels = [], []
        for tensor, labels in zip(problem.tensors, problem.labels, strict=True):
            read = [label for label in labels if label in columns]
            rest = [label for label in labels if label not in columns]
            if read:
                tensor = tensor.permute([labels.index(label) for label in (*read, *rest)])
                whole = not set(read) <= set(kept)
                tensor = tensor[tuple(columns[x] if whole else columns[x][:, 0] for x in read)]
                labels = (output, place, *rest) if whole else (output, *rest)
            tensors.append(tensor)
            all_labels.append(labels)
        held = sum(
            tensor.numel() * tensor.element_size()
            for tensor, labels in zip(tensors, all_labels, strict=True)
            if output in labels
        )
        globally = torch.stack(
            [_shifted(columns[x], *problem.origins.get(x, (0, 1))) for x in table.labels], -1
        )
        sizes = {**problem.sizes, output: rows.shape[0], place: rows.shape[1]}
        gathered = replace(
            problem,
            tensors=tuple(tensors),
            labels=tuple(all_labels),
            patterns=(),
            output=(output, *(label for label in problem.output if label not in kept)),
            sizes=sizes,
            relations=(*problem.relations, Lookup(globally, table.labels, (output, place))),
            held_bytes=problem.held_bytes + (held if self.options.memory_limit is not None else 0),
        )
        for label in (output, place):
            if not gathered.carriers(label):
                gathered = gathered.adding(ones_vector(self.options.semiring, like, sizes[label]), label)
        return gathered

    def _sum(self, problem: Problem, results: Sequence[Result]) -> Result:
        """Results of disjoint terms, added up."""
        if len(results) == 1:
            return results[0]
        values = torch.stack([result.value for result in results])
        label = problem.fresh
        parts = Problem(
            (values,),
            ((label, *problem.output),),
            (False,),
            (),
            problem.output,
            {**problem.sizes, label: len(results)},
            {},
            held_bytes=self._holding(problem).held_bytes,
        )
        value, chosen = self._einsum(parts)
        if chosen is None:
            return Result(value)
        places = torch.stack([result.places for result in results if result.places is not None])
        return Result(value, places.take_along_dim(chosen[None].expand(1, *places.shape[1:]), 0)[0])

    def _contracted(self, problem: Problem) -> Result:
        """The result of a problem without patterns."""
        problem = problem.largest_last()
        value, chosen = self._einsum(problem)
        if chosen is None:
            return Result(value)
        left = [
            label
            for label in dict.fromkeys(x for labels in problem.labels for x in labels)
            if label not in problem.output
        ]
        found = dict(zip(left, chosen.unbind(-1), strict=True))
        for dim, label in enumerate(problem.output):
            size = value.shape[dim]
            shape = [1] * dim + [size] + [1] * (value.ndim - dim - 1)
            found[label] = torch.arange(size, device=value.device).reshape(shape).expand(value.shape)
        positions = problem.positions(found)
        places = [positions[label].expand(value.shape) for label in self.summed]
        if not places:
            return Result(value, value.new_zeros((*value.shape, 0), dtype=torch.int64))
        return Result(value, torch.stack(places, -1))

    def _einsum(self, problem: Problem) -> tuple[Tensor, Tensor | None]:
        """The einsum of tensors alone, in what is left of the limit."""
        equation = Equation(problem.labels, problem.output)
        options = self.options.linear(*(p for p, linear in enumerate(problem.linear) if linear))
        if options.is_plain and not self.return_argmax:
            return contract(equation, problem.tensors, self.optimize), None
        limit = options.memory_limit
        if limit is not None:
            options = replace(options, memory_limit=max(limit - problem.held_bytes, 0))
        try:
            found = contract_over(equation, problem.tensors, self.optimize, options, self.return_argmax)
        except MemoryLimitError as error:
            if not problem.held_bytes:
                raise
            raise MemoryLimitError(
                f"{error}; parts of the result and padded operands take another {problem.held_bytes:,} bytes "
                f"of memory_limit={limit:,}"
            ) from None
        return found if self.return_argmax else (found, None)

    def _holding(self, problem: Problem) -> Problem:
        """The problem, whose parts leave room for the whole."""
        if self.options.memory_limit is None:
            return problem
        item = problem.tensors[0].element_size() + 8 * len(self.summed) * self.return_argmax
        return replace(problem, held_bytes=problem.held_bytes + item * prod(problem.shape))

    def _blank(self, problem: Problem) -> Blank:
        like = problem.tensors[0]
        zero = self.options.semiring.zero_of(like.dtype)
        return Blank(like, zero, len(self.summed) if self.return_argmax else None)


def _seen_through_windows(problem: Problem, met: Met) -> bool:
    """Whether the input of a pattern is in tensors alone."""
    read = met.labels[2]
    return len(set(met.labels)) == 3 and read not in problem.output and problem.in_patterns(read) == 1


def _folded(problem: Problem, met: Met) -> bool:
    """Whether a pattern's input is in the output, and its other labels are in tensors alone."""
    kernel, output, inputs = met.labels
    alone = len(set(met.labels)) == 3 and all(problem.in_patterns(label) == 1 for label in met.labels)
    return alone and inputs in problem.output and not {kernel, output} & set(problem.output)


def _shifted(positions: Tensor, first: int, step: int) -> Tensor:
    return positions * step + first
