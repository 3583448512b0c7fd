"""Contractions of one or two operands, of many forms, sizes and layouts, beside torch and opt_einsum."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import opt_einsum
import torch
from torch import Tensor

import einfx

from .results import table, time_text
from .timing import Measurement, geometric_mean, interleave

__all__ = ["FORMS", "LAYOUTS", "Pair", "Timed", "operand", "pairs", "run", "section"]

OURS, TORCH, PEER = "einfx", "torch.einsum", "opt_einsum"

SLOWER = 1.15
"""How many times the time of the fastest of the others is worth a line; it is then measured once more."""

MOST_ELEMENTS = 1 << 21
"""Of operands; larger ones are contiguous, and without gradients."""

FORMS = {
    "ij,jk->ik": ("4 4 4", "256 256 256", "1000000 8 8", "500000 16 4", "100000 64 8", "4 500000 4"),
    "ij,jk->ki": ("64 64 64", "1000 500 300"),
    "nk,nj->kj": (
        "1000000 3 3",
        "1000000 8 8",
        "100000 8 256",
        "100000 256 8",
        "20000 64 8",
        "65536 128 128",
    ),
    "ij,j->i": ("4 4", "2000 2000", "1000000 8", "8 1000000"),
    "ij,i->j": ("4 4", "2000 2000", "1000000 8", "8 1000000"),
    "i,i->": ("4", "1000", "1000000"),
    "i,i->i": ("4", "1000000"),
    "i,j->ij": ("4 4", "2000 2000", "100000 8"),
    "i,j->ji": ("2000 2000", "8 100000"),
    "ab,cd->acbd": ("4 4 4 4", "30 30 30 30"),
    "nc,nc->n": ("1000000 3", "1000000 8", "500000 20", "100000 64", "1000 1000"),
    "nc,nc->c": ("1000000 3", "1000000 8", "100000 64"),
    "nc,cn->n": ("1000000 8", "2000 2000"),
    "ac,abc->cb": ("8 8 8", "1000 8 20", "100 100 100"),
    "abc,ac->ab": ("10000 4 4", "1000 4 200", "100 100 100"),
    "abc,cd->abd": ("1000 1000 3 3", "32 64 64 64"),
    "abc,bd->adc": ("32 64 64 64", "100 20 300 10"),
    "abc,ad->bcd": ("1000 16 16 4",),
    "abc,cbd->ad": ("100 40 50 100", "30 300 30 100"),
    "abcd,dcef->abef": ("16 16 16 16 16 16",),
    "abcd,be->acde": ("20 20 20 20 20", "20 3 100 30 3"),
    "bij,bjk->bik": ("4 4 4 4", "10000 4 4 4", "1000 16 16 16", "64 128 128 128", "100000 2 8 2"),
    "bij,bjk->ikb": ("10000 4 4 4", "1000 16 16 16"),
    "bij,bj->bi": ("4 4 4", "100000 3 3", "1000 64 64", "100 300 300"),
    "bij,bi->bj": ("100000 3 3", "1000 64 64"),
    "bi,bj->bij": ("4 4 4", "100000 3 3", "1000 64 64"),
    "bthf,bshf->bhts": ("4 64 8 32 64", "2 256 4 64 256"),
    "zui,zvj->zuvij": ("100 8 3 8 3",),
    "nchw,kc->nkhw": ("8 64 32 32 64", "2 3 224 224 16"),
    "nchw,c->nchw": ("8 64 56 56",),
    "abc->b": ("4 4 4", "100 100 100", "1000 3 1000", "10 100000 10"),
    "abc->ca": ("100 100 100",),
    "ij->i": ("4 4", "2000 2000", "1000000 4"),
    "ii->i": ("4", "3000"),
    "iji->j": ("100 100",),
    "aab,bc->ac": ("100 100 100",),
    "abc,bca->c": ("100 100 100",),
    "abc,b->ca": ("100 100 100",),
    "a,b->": ("1000 1000",),
}
"""Sizes for each equation, of its labels in the order in which they appear."""


def contiguous(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Random numbers that lie as usual."""
    return torch.randn(*shape, generator=generator)


def reversed_(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """The first dimension is the innermost in memory."""
    return torch.randn(*reversed(shape), generator=generator).permute(*reversed(range(len(shape))))


def strided(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Every second element along the last dimension."""
    return torch.randn(*shape[:-1], 2 * shape[-1], generator=generator)[..., ::2]


def expanded(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """The same all along the first dimension."""
    return torch.randn(1, *shape[1:], generator=generator).expand(*shape)


LAYOUTS = {"contiguous": contiguous, "reversed": reversed_, "strided": strided, "expanded": expanded}


@dataclass(frozen=True)
class Pair:
    """A contraction.

    Attributes:
        equation: as text.
        sizes: of its labels, in the order in which they appear.
        layout: how operands lie in memory, one of ``LAYOUTS``.
        gradients: whether the gradients of all operands are computed too.
    """

    equation: str
    sizes: tuple[int, ...]
    layout: str
    gradients: bool

    @property
    def group(self) -> str:
        """With which others it is counted."""
        return f"{self.layout}, with gradients" if self.gradients else self.layout

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the operands."""
        inputs = self.equation.partition("->")[0]
        sizes = dict(zip(dict.fromkeys(inputs.replace(",", "")), self.sizes, strict=True))
        return [tuple(sizes[x] for x in labels) for labels in inputs.split(",")]

    def calls(self) -> dict[str, Callable[[], object]]:
        """The ways to compute it, on the same operands."""
        generator = torch.Generator().manual_seed(0)
        operands = [operand(self.layout, shape, generator) for shape in self.shapes()]
        ways: dict[str, Callable[..., Tensor]] = {
            OURS: einfx.einsum,
            TORCH: torch.einsum,
            PEER: opt_einsum.contract,
        }
        if not self.gradients:
            return {name: partial(way, self.equation, *operands) for name, way in ways.items()}
        leaves = [x.requires_grad_() for x in operands]
        result = torch.einsum(self.equation, *leaves)
        gradient = torch.randn(result.shape, generator=generator)

        def gradients(way: Callable[..., Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(way(self.equation, *leaves), leaves, gradient)

        return {name: partial(gradients, way) for name, way in ways.items()}


@dataclass(frozen=True)
class Timed:
    """A contraction and its least times, by who computed it."""

    pair: Pair
    seconds: dict[str, float]

    @property
    def ratio(self) -> float:
        """The time of einfx over that of the fastest of the others."""
        return self.seconds[OURS] / min(time for name, time in self.seconds.items() if name != OURS)


def operand(layout: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Random numbers of a shape that lie in memory as the layout says."""
    return LAYOUTS[layout](shape, generator)


def pairs(pattern: str = "") -> Iterator[Pair]:
    """All contractions whose equation, or whose layout, matches a regular expression."""
    for layout in LAYOUTS:
        for equation, settings in FORMS.items():
            for setting in settings:
                sizes = tuple(map(int, setting.split()))
                for gradients in (False, True) if layout == "contiguous" else (False,):
                    pair = Pair(equation, sizes, layout, gradients)
                    elements = sum(torch.Size(shape).numel() for shape in pair.shapes())
                    if elements > MOST_ELEMENTS and (gradients or layout != "contiguous"):
                        continue
                    if re.search(pattern, equation) or re.search(pattern, pair.group):
                        yield pair


def run(chosen: Iterable[Pair], budget_seconds: float = 0.2) -> list[Timed]:
    """Time contractions on one thread.

    Args:
        chosen: the contractions.
        budget_seconds: time for each; twice that once more for those in which another is faster.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_time(pair, budget_seconds) for pair in chosen]
    finally:
        torch.set_num_threads(threads)


def _time(pair: Pair, budget_seconds: float) -> Timed:
    calls = pair.calls()
    timed = Timed(pair, _least(interleave(calls, budget_seconds)))
    if timed.ratio <= SLOWER:
        return timed
    again = _least(interleave(calls, 2 * budget_seconds))
    return Timed(pair, {name: min(time, again[name]) for name, time in timed.seconds.items()})


def _least(measurement: Measurement) -> dict[str, float]:
    return {name: min(times) for name, times in measurement.seconds.items()}


def section(timed: Sequence[Timed]) -> str:
    """The section of the results file about pairs."""
    groups = []
    for group in dict.fromkeys(one.pair.group for one in timed):
        own = [one for one in timed if one.pair.group == group]
        means = [
            f"{geometric_mean([one.seconds[name] / one.seconds[OURS] for one in own]):.2f}"
            for name in (TORCH, PEER)
        ]
        slower = sum(one.ratio > SLOWER for one in own)
        groups.append([group, str(len(own)), *means, f"{max(one.ratio for one in own):.2f}", str(slower)])
    rows = []
    for one in sorted(timed, key=lambda one: -one.ratio):
        if one.ratio > SLOWER:
            sizes = " ".join(map(str, one.pair.sizes))
            times = [time_text(one.seconds[name]) for name in (OURS, TORCH, PEER)]
            rows.append([f"`{one.pair.equation}`", sizes, one.pair.group, *times, f"{one.ratio:.2f}"])
    header = ["operands", "contractions", f"speed over {TORCH}", f"over {PEER}", "worst", f"over {SLOWER}"]
    listed = table(["equation", "sizes", "operands", OURS, TORCH, PEER, "ratio"], rows) if rows else ""
    return (
        "float32, one thread, least times of interleaved rounds. Speeds are geometric means, above 1\n"
        "einfx is faster; ratios are its time over that of the fastest of the others in each contraction.\n\n"
        f"{table(header, groups)}\nWhere another is faster by more than {SLOWER}:"
        f"{chr(10) * 2 + listed if rows else ' nowhere.' + chr(10)}"
    )
