"""Multiplications and times of sliced tensor networks, beside cotengra's slices, within the same memory.

cotengra searches a tree, and slices it for a target size of the largest intermediate, improving it meanwhile.
What a slice takes is told by einfx's own account, every value of it included; einfx then plans within as many
bytes. Multiplications are counted alike: of every contraction the product of the sizes of all its labels, as
often as it is done.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import Tensor

import einfx
from einfx.equation import Equation
from einfx.errors import MemoryLimitError
from einfx.graph_memory.contraction_bytes import needed_bytes
from einfx.paths.choices import linear_to_ssa
from einfx.plans import size_text
from einfx.slicing.running.memory import demand
from einfx.slicing.schedules.schedule import Contract, Loop, Schedule, Statement
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule

from ..timing import interleave
from . import alone, curves
from .measure import at_most

__all__ = ["NETWORKS", "Outcome", "multiplications", "regular", "run", "section"]

FRACTIONS = (3, 10, 100)
"""Target sizes: the largest intermediate of the tree that isn't sliced, divided by these."""

REPEATS = 32
"""Trees that cotengra tries, by its default methods."""

STAGE_SECONDS = 90
"""What planning by one, and running by one, may take at the very most."""

CALL_SECONDS = 5.0
"""What one contraction may take."""

Network = tuple[str, tuple[tuple[int, ...], ...]]


class Outcome(NamedTuple):
    """One network within one limit.

    Attributes:
        name: of the network.
        fraction: how much smaller the largest intermediate was to be.
        limit: in bytes: what cotengra's slices take.
        whole: multiplications of cotengra's tree without slices.
        slices: how many cotengra makes.
        theirs: multiplications of these.
        ours: of einfx's schedule; None where einfx refuses the limit.
        needed: where it does, one that it says would do, if it names one.
        theirs_seconds: of cotengra's search.
        ours_seconds: of einfx's.
        theirs_time: seconds of the contraction; None where it took longer than it may.
        ours_time: of einfx's; None where it did, or was refused.
        failure: why there is nothing of the above; empty where there is.
    """

    name: str
    fraction: int
    limit: int
    whole: float
    slices: int
    theirs: float
    ours: float | None
    needed: int | None
    theirs_seconds: float
    ours_seconds: float
    theirs_time: float | None
    ours_time: float | None
    failure: str = ""


def regular(count: int, bond: int, seed: int) -> Network:
    """Tensors of three labels each, joined at random."""
    pick = random.Random(seed)
    while True:
        ends = [node for node in range(count) for _ in range(3)]
        pick.shuffle(ends)
        pairs = list(zip(ends[::2], ends[1::2], strict=True))
        if all(a != b for a, b in pairs) and len({frozenset(pair) for pair in pairs}) == len(pairs):
            break
    terms = [
        "".join(opt_einsum.get_symbol(i) for i, pair in enumerate(pairs) if node in pair)
        for node in range(count)
    ]
    return ",".join(terms) + "->", ((bond,) * 3,) * count


NETWORKS = {
    "lattice 6x6, bond 4": curves.lattice(6, 6, 4),
    "lattice 8x8, bond 4": curves.lattice(8, 8, 4),
    "3-regular, 40, bond 4": regular(40, 4, 0),
    "3-regular, 60, bond 4": regular(60, 4, 1),
}


def run(progress: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Plan and run every network within every limit, each in a process of its own.

    Args:
        progress: is told each outcome.
    """
    arguments = [[name, fraction] for name in NETWORKS for fraction in FRACTIONS]
    found = []
    for answer in alone.each(f"{__name__}:contest", arguments, STAGE_SECONDS):
        if answer.failure:
            nothing = 0, math.nan, 0, math.nan, None, None, 0.0, 0.0, None, None
            name, fraction = answer.argument
            outcome = Outcome(name, fraction, *nothing, answer.failure)
        else:
            outcome = Outcome(*answer.value)
        found.append(outcome)
        if progress is not None:
            progress(outcome)
    return found


def contest(argument: Sequence[Any]) -> Outcome:
    """Plan and run one network, given its name and how much smaller its largest intermediate is to be."""
    name, fraction = argument
    text, shapes = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    # Of positive numbers, so that nothing cancels, and scaled so that nothing overflows.
    operands = [2 * torch.rand(shape, generator=generator) / math.sqrt(math.prod(shape)) for shape in shapes]
    start = time.perf_counter()
    whole, tree = _tree(text, shapes, fraction)
    theirs_seconds = time.perf_counter() - start
    limit = _bytes(text, shapes, tree)
    alone.renew()
    ours = needed = None
    calls = {"cotengra": partial(tree.contract, operands)}
    start = time.perf_counter()
    try:
        plan = einfx.contract_path(text, *shapes, memory_limit=limit)
        ours = multiplications(plan.schedule)
        calls["einfx"] = partial(einfx.einsum, text, *operands, memory_limit=limit)
    except MemoryLimitError as error:
        needed = needed_bytes(error)
    ours_seconds = time.perf_counter() - start
    times = _times(calls)
    return Outcome(
        name=name,
        fraction=fraction,
        limit=limit,
        whole=whole,
        slices=tree.nslices,
        theirs=tree.contraction_cost(),
        ours=ours,
        needed=needed,
        theirs_seconds=theirs_seconds,
        ours_seconds=ours_seconds,
        theirs_time=times.get("cotengra"),
        ours_time=times.get("einfx"),
    )


def _tree(text: str, shapes: Sequence[Sequence[int]], fraction: int) -> tuple[float, Any]:
    """The multiplications of cotengra's tree without slices, and the tree with them."""
    import cotengra

    terms = text.removesuffix("->").split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    # Slicing draws from the source of all random numbers.
    random.seed(0)
    optimizer = cotengra.HyperOptimizer(
        optlib="random", max_repeats=REPEATS, seed=0, parallel=False, progbar=False
    )
    tree = optimizer.search(terms, (), sizes)
    target = max(int(tree.max_size() / fraction), 1)
    return tree.contraction_cost(), tree.slice_and_reconfigure(target_size=target)


def _times(calls: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The seconds of those that come to their end in time, in the same rounds.

    Raises:
        AssertionError: two results differ.
    """
    results, ended = [], {}
    for name, call in calls.items():
        alone.renew()
        try:
            with at_most(CALL_SECONDS):
                results.append(call())
        except TimeoutError:
            continue
        ended[name] = call
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-3, atol=0.0)
    if not ended:
        return {}
    alone.renew()
    times = interleave(ended, 2.0, min_rounds=2)
    return {name: times.time(name).median for name in ended}


def _bytes(text: str, shapes: Sequence[tuple[int, ...]], tree: Any) -> int:
    """What a slice of cotengra's takes, all of it computed again in every slice as cotengra does."""
    equation = Equation.parse(text)
    labels = dict(zip(text.replace(",", ""), itertools.chain(*equation.inputs), strict=False))
    by_label = equation.sizes(shapes)
    sizes = tuple(by_label[label] for label in equation.labels)
    path = tuple(linear_to_ssa(tree.get_path(), len(shapes)))
    mine = ContractionTree(equation, sizes, path)
    cuts = [Cut(mine.root, labels[letter], 1) for letter in tree.sliced_inds]
    again = [-1 - value for value in mine.children]
    return demand(schedule(mine, cuts, again), torch.float32, "cpu").peak_bytes


def multiplications(program: Schedule) -> float:
    """Of every contraction of a schedule the product of the sizes of its labels, as often as it is done."""

    def count(statements: Sequence[Statement], blocks: dict[int, int]) -> float:
        total = 0.0
        for line in statements:
            if isinstance(line, Loop):
                inside = {**blocks, line.label: -(-program.sizes[line.label] // line.block)}
                total += count(line.body, inside)
            elif isinstance(line, Contract):
                labels = {label for value in line.operands for label in program.labels[value]}
                again = math.prod(times for label, times in blocks.items() if label not in labels)
                total += again * math.prod(program.sizes[label] for label in labels)
        return total

    return count(program.statements, {})


def section(outcomes: Sequence[Outcome]) -> str:
    """The part for the file of results."""
    lines = [
        "### Slices of networks",
        "",
        "Multiplications of sliced tensor networks, as multiples of those of cotengra's tree without slices "
        f"(the best of {REPEATS} that its default methods find; then `slice_and_reconfigure`). einfx has as "
        "many bytes as a slice of cotengra's takes. Of every contraction the product of the sizes of all its "
        "labels is counted, as often as it is done. Times are of the contraction alone, one thread; what "
        f"took more than {CALL_SECONDS:.0f} s of the processor was ended.",
        "",
        "| network | largest / | limit, bytes | slices | cotengra | einfx | einfx / cotengra | planning, s "
        "| time, s | einfx / cotengra |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *map(row, outcomes),
    ]
    return "\n".join(lines) + "\n"


def row(x: Outcome) -> str:
    """One network within one limit, as a row of the table."""
    if x.failure:
        return f"| {x.name} | {x.fraction} | {x.failure} |" + " |" * 7
    ours = f"refused, needs {size_text(x.needed)} | " if x.needed else "refused | "
    if x.ours is not None:
        ours = f"{x.ours / x.whole:.2f} | {x.ours / x.theirs:.2f}"
    times = [_time_text(x.theirs_time), "refused" if x.ours is None else _time_text(x.ours_time)]
    both = x.theirs_time is not None and x.ours_time is not None
    ratio = f"{(x.ours_time or 0) / (x.theirs_time or 1):.2f}" if both else ""
    return (
        f"| {x.name} | {x.fraction} | {x.limit:,} | {x.slices:,} | {x.theirs / x.whole:.2f} | {ours} "
        f"| {x.theirs_seconds:.1f}, {x.ours_seconds:.1f} | {', '.join(times)} | {ratio} |"
    )


def _time_text(seconds: float | None) -> str:
    return f"over {CALL_SECONDS:.0f}" if seconds is None else f"{seconds:.3g}"
