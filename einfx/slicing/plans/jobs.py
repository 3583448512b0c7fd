"""A plan as jobs that don't depend on one another, and how their results meet.

A job is the contraction restricted to ranges of some labels: a plan of its own, over parts of the operands.
It may run in any order, in another process or on another machine. What it returns meets the results of the
others along labels of the output side by side, and along summed labels by the semiring's addition, by way of
its accumulator: for log a pair of the largest term and the sum of exponentials relative to it.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from ...accumulators import Accumulator, State
from ...errors import OperandError, PlanError, UsageError
from ...operands import check_operand
from ...semiring import get
from ..schedules.flops import count_flops
from ..schedules.plain import kept_labels, plain
from ..schedules.tree import ContractionTree, Cut
from ..search.find_schedule import Sliced
from .parts import demand_of, examples, found_fields, program_of
from .plan import SlicedPlan

__all__ = ["Job", "Jobs", "jobs_of"]

Ranges = tuple[tuple[int, int, int], ...]
"""Labels of an equation, each with the start and the stop of a range."""


@dataclass(frozen=True)
class Job:
    """A part of a contraction, or of its gradients, that depends on no other part.

    Args:
        plan: what it computes, of parts of the operands.
        places: the ranges of labels that it covers.
    """

    plan: SlicedPlan
    places: Ranges

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The range of each label that is cut, by its letter."""
        return {self.plan.letters[label]: (start, stop) for label, start, stop in self.places}

    def narrow(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """The parts of the tensors of the whole that it reads; views.

        Args:
            operands: what the plan of the whole takes.

        Raises:
            OperandError: there are more or fewer, or something that isn't a tensor.
        """
        equation = self.plan.equation
        if len(operands) != self.plan.schedule.count:
            raise OperandError(
                f"this job of {self.plan.text!r} takes what the plan of the whole takes, "
                f"{self.plan.schedule.count} tensors, but {len(operands)} were given"
            )
        for position, operand in enumerate(operands):
            check_operand(f"a job of {self.plan.text!r}", position, operand)
        extra = len(operands) - len(equation.inputs)
        labels = (*equation.inputs, *[equation.output] * extra)
        return tuple(_part(x, own, self.places) for x, own in zip(operands, labels, strict=True))

    def run(self, *operands: Tensor) -> Any:
        """Compute its part.

        Args:
            operands: what the plan of the whole takes.

        Returns:
            What the plan returns, of its part.
        """
        return self.plan.run(*self.narrow(*operands))

    def to_text(self) -> str:
        """The job as one line of JSON, which :meth:`from_text` reads."""
        return json.dumps([self.places, self.plan.to_text()])

    @classmethod
    def from_text(cls, text: str) -> Job:
        """Read what :meth:`to_text` wrote.

        Raises:
            PlanError: the text isn't that of a job.
        """
        try:
            places, plan = json.loads(text)
            return cls(SlicedPlan.from_text(plan), tuple((label, a, b) for label, a, b in places))
        except (TypeError, ValueError) as error:
            raise PlanError(f"this isn't the text of a job: {error}") from error


@dataclass(frozen=True)
class Jobs(Sequence[Job]):
    """All parts of a plan.

    Args:
        plan: of the whole.
        cut: for each label that is cut the ranges.

    Example:
        >>> import einfx, torch
        >>> x, y = torch.ones(4, 6).log(), torch.ones(6, 5).log()
        >>> whole = einfx.contract_path("ij,jk->ik", x, y, semiring="log", memory_limit="1 MiB")
        >>> jobs = whole.jobs(3)
        >>> print(jobs)
        3 jobs: j in 3
        result 0: j added by log
        >>> total = jobs.start()
        >>> for number in (2, 0, 1):
        ...     total = jobs.update(total, number, jobs[number].run(x, y))
        >>> jobs.finish(total)[0].exp()
        tensor([6., 6., 6., 6., 6.])
    """

    plan: SlicedPlan
    cut: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

    def __len__(self) -> int:
        return prod(len(ranges) for _, ranges in self.cut)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return tuple(self[i] for i in range(*number.indices(len(self))))
        if not hasattr(number, "__index__"):
            raise UsageError(f"jobs[{number!r}]: it is the number of a job, from 0 to {len(self) - 1}")
        number = operator.index(number)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} jobs, so none is number {number}")
        places, rest = [], number % len(self)
        for label, ranges in reversed(self.cut):
            rest, position = divmod(rest, len(ranges))
            places.append((label, *ranges[position]))
        return Job(_restricted(self.plan, tuple(reversed(places))), tuple(reversed(places)))

    def __iter__(self) -> Iterator[Job]:
        return (self[number] for number in range(len(self)))

    @property
    def merges(self) -> tuple[dict[str, str], ...]:
        """For each result how parts meet, by the letter of each label that is cut: concatenate or add."""
        letters = self.plan.letters
        return tuple(
            {letters[x]: "concatenate" if x in labels else "add" for x, _ in self.cut}
            for labels, _ in self._outputs
        )

    def __str__(self) -> str:
        name = "real" if self.plan.needs_grad else self.plan.options.semiring.name
        lines = [
            f"{len(self)} jobs: " + ", ".join(f"{self.plan.letters[x]} in {len(r)}" for x, r in self.cut)
        ]
        for number, meeting in enumerate(self.merges):
            how = [f"{x} {'added by ' + name if y == 'add' else 'side by side'}" for x, y in meeting.items()]
            lines.append(f"result {number}: {', '.join(how)}")
        return "\n".join(lines) if self.cut else "1 job, the whole"

    def start(self) -> tuple[State, ...]:
        """The state of all results before the first job: for each result that of an empty sum."""
        return tuple(self._sums.init(shape, self.plan.dtype, self.plan.device) for _, shape in self._outputs)

    def update(self, states: tuple[State, ...], number: int, result: Any) -> tuple[State, ...]:
        """Take in what a job returned; jobs may come in any order, each once.

        Args:
            states: what :meth:`start` or the last :meth:`update` returned; changed in place.
            number: of the job.
            result: what its ``run`` returned.

        Raises:
            OperandError: a result of another shape than the job's.
        """
        places = self[number].places
        results = result if self.plan.needs_grad else (result,)
        if (
            not isinstance(results, (tuple, list))
            or len(results) != len(self._outputs)
            or not all(isinstance(x, Tensor) for x in results)
        ):
            raise OperandError(
                f"job {number} of {self.plan.text!r} gives {len(self._outputs)} tensor(s), not "
                f"{_kind(result)}"
            )
        for state, (labels, _), part in zip(states, self._outputs, results, strict=True):
            views = tuple(_part(x, labels, places) if x.dim() else x for x in state)
            if views[0].shape != part.shape:
                raise OperandError(
                    f"job {number} of {self.plan.text!r} gives {tuple(views[0].shape)}, not "
                    f"{tuple(part.shape)}"
                )
            terms = part.unsqueeze(0).to(views[0].device)
            for view, new in zip(views, self._sums.update(views, terms, 0), strict=True):
                view.copy_(new)
        return states

    def finish(self, states: tuple[State, ...]) -> Any:
        """The result of the whole, as :meth:`SlicedPlan.run` returns it.

        Args:
            states: with what all jobs returned.
        """
        made = tuple(self._sums.finish(state) for state in states)
        return made if self.plan.needs_grad else made[0]

    def merge(self, results: Sequence[Any] | Mapping[int, Any]) -> Any:
        """The result of the whole.

        Args:
            results: what all jobs returned, in their order, or by their numbers.

        Raises:
            OperandError: there are more or fewer than jobs.
        """
        if not isinstance(results, (Mapping, Sequence)):
            raise OperandError(
                f"merge takes what the {len(self)} jobs of {self.plan.text!r} returned, in a list or by "
                f"their numbers, not {_kind(results)}"
            )
        by_number = results if isinstance(results, Mapping) else dict(enumerate(results))
        if set(by_number) != set(range(len(self))):
            raise OperandError(
                f"the plan of {self.plan.text!r} is cut into {len(self)} jobs, but results of "
                f"{len(by_number)} were given"
            )
        states = self.start()
        for number, result in by_number.items():
            states = self.update(states, number, result)
        return self.finish(states)

    @property
    def _sums(self) -> Accumulator:
        """How results are added; gradients are, over every semiring, numbers."""
        semiring = get("real") if self.plan.needs_grad else self.plan.options.semiring
        return semiring.partial_sums

    @property
    def _outputs(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The labels and the shape of every result."""
        plan = self.plan
        if not plan.needs_grad:
            return [(plan.equation.output, plan.equation.output_shape(plan.shapes))]
        wanted = [i for i, needed in enumerate(plan.needs_grad) if needed]
        return [(plan.equation.inputs[i], plan.shapes[i]) for i in wanted]


def jobs_of(plan: SlicedPlan, count: int | None) -> Jobs:
    """Cut a plan into jobs; arguments as of :meth:`SlicedPlan.jobs`.

    Raises:
        UsageError: a count that isn't a number from 1 up.
        PlanError: operands in half precision, or linear ones.
    """
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UsageError(f"count={count!r}: it is the number of jobs, from 1 up")
    if plan.schedule.loaded or plan.options.linear_operands:
        raise PlanError(f"the plan of {plan.text!r} can't be cut into jobs, in {plan.dtype} with its options")
    allowed = _cuttable(plan)
    if count is None:
        around = [cut for cut in plan.cuts if cut[0] == plan.tree.root and cut[1] in allowed]
        cut = tuple((label, _blocks(plan.sizes[label], block)) for _, label, block in around)
        return Jobs(plan, cut)
    if count == 1:
        return Jobs(plan, ())
    best: tuple[Any, ...] | None = None
    for label in sorted(allowed):
        size = plan.sizes[label]
        parts = min(count, size)
        ranges = tuple((i * size // parts, (i + 1) * size // parts) for i in range(parts))
        longest = max(ranges, key=lambda pair: pair[1] - pair[0])
        # Jobs run at the same time: what counts is the longest; results side by side are easier to join.
        work = _restricted(plan, ((label, *longest),)).flops
        key = (work, label not in plan.equation.output, label)
        if len(ranges) > 1 and (best is None or key < best[0]):
            best = (key, ((label, ranges),))
    return Jobs(plan, () if best is None else best[1])


def _cuttable(plan: SlicedPlan) -> set[int]:
    """The labels along which jobs don't depend on one another."""
    kept = set(plan.kept)
    if plan.needs_grad and plan.options.semiring.selective:
        # Of equal terms in different ranges only one has a gradient, which one job can't know of another.
        kept &= set(plan.equation.output)
    return {label for label in kept if plan.sizes[label] > 1}


def _blocks(size: int, block: int) -> tuple[tuple[int, int], ...]:
    return tuple((start, min(start + block, size)) for start in range(0, size, block))


def _part(tensor: Tensor, labels: Sequence[int], places: Ranges) -> Tensor:
    """The part of a tensor with these labels; dimensions that broadcast stay."""
    for label, start, stop in places:
        for dim, own in enumerate(labels):
            if own == label and tensor.shape[dim] != 1:
                tensor = tensor.narrow(dim, start, stop - start)
    return tensor


def _restricted(plan: SlicedPlan, places: Ranges) -> SlicedPlan:
    """The plan for ranges of labels: blocks that are no shorter than a range go."""
    lengths = {label: stop - start for label, start, stop in places}
    whole = examples(plan.shapes, plan.strides, plan.dtype)
    parts = [_part(x, own, places) for x, own in zip(whole, plan.equation.inputs, strict=True)]
    shapes = tuple(tuple(x.shape) for x in parts)
    simple, operands = plain(plan.equation, parts)
    kept = kept_labels(plan.equation, parts)
    sizes = simple.sizes([x.shape for x in operands])
    tree = ContractionTree(simple, tuple(sizes[label] for label in simple.labels), plan.steps)
    cuts = tuple(
        Cut(value, kept.index(label), block)
        for value, label, block in plan.cuts
        if block < lengths.get(label, plan.sizes[label])
    )
    program = program_of(tree, cuts, plan.repeated, plan.needs_grad, plan.options)
    strides = tuple(x.stride() for x in operands)
    found = demand_of(program, plan.dtype, plan.device, plan.options, strides)
    whole_program = program_of(tree, (), (), plan.needs_grad, plan.options)
    terms = prod(plan.equation.sizes(shapes).values())
    return replace(
        plan,
        shapes=shapes,
        strides=tuple(x.stride() for x in parts),
        naive_flops=terms * max(1, len(shapes) - 1 + bool(plan.equation.summed)),
        unlimited_flops=count_flops(whole_program, plan.options),
        **found_fields(Sliced(program, found, tree, cuts), kept, plan.options),
    )


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"
