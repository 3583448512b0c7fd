"""Rows of matrix products, beside real ones of the same shape as the limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

import einfx
from einfx.kernels import tropical_native

from ..contests.row import OURS, AtLeast, Call, Contest, Row, with_gradients
from . import ceiling, operands
from .oracle import exact, exact_argmax, exact_gradients
from .peers import SEMIRING_EINSUM, TROPICAL_GEMM, semiring_einsum, tropical_gemm, tropical_gemm_module

__all__ = ["BOOLEAN", "LOG", "REAL", "TROPICAL"]

REAL = "torch.mm"
MATRICES = "ik,kj->ij"
BATCHES = "zik,zkj->zij"
BROADCAST = "broadcast"
REAL_BATCHES = "torch.bmm"
SAFE = "einfx, safe scores"
TINY = 24

Pair = tuple[Tensor, Tensor]


def _ours(equation: str, semiring: str) -> Callable[..., Tensor]:
    return lambda *given: einfx.einsum(equation, *given, semiring=semiring)


def _call(compute: Callable[..., object] | None, given: tuple[Tensor, ...]) -> Call | None:
    """A call of a contestant, where it is installed."""
    return None if compute is None else lambda: compute(*given)


def _gradients(compute: Callable[..., Tensor] | None, given: tuple[Tensor, ...]) -> Call | None:
    return None if compute is None else with_gradients(compute, given)


def log_broadcast(a: Tensor, b: Tensor) -> Tensor:
    """The product of (..., I, K) and (..., K, J) as plain torch has it."""
    return torch.logsumexp(a.unsqueeze(-1) + b.unsqueeze(-3), -2)


def _log(
    n: int,
    make: Callable[[int], Pair] = operands.pair,
    dtype: torch.dtype = torch.float32,
    gradients: bool = False,
    peers: bool = False,
) -> Contest:
    """Products over log; operands that aren't simply random are measured against those that are too."""
    a, b = (x.to(dtype) for x in make(n))
    batched = a.dim() == 3
    equation = BATCHES if batched else MATRICES
    run = _gradients if gradients else _call
    calls: dict[str, Call | None] = {OURS: run(_ours(equation, "log"), (a, b))}
    if peers:
        calls[BROADCAST] = run(log_broadcast, (a, b))
        if not batched:
            calls[SEMIRING_EINSUM] = run(semiring_einsum(equation, "log"), (a, b))
    limits = {REAL_BATCHES if batched else REAL: run(torch.bmm if batched else torch.mm, (a, b))}
    if make in (operands.few_unsafe, operands.all_unsafe):
        limits[SAFE] = run(_ours(equation, "log"), operands.pair(n))
    return Contest(calls, (exact_gradients if gradients else exact)(equation, "log", a, b), limits)


def _log_row(
    name: str,
    n: int,
    note: str,
    *targets: AtLeast,
    peers: bool = False,
    tolerance: float = 2e-5,
    **how: object,
) -> Row:
    return Row(
        f"log {n}{name}" if name[:1] in ("", ",") else name,
        note,
        partial(_log, peers=peers, **how),  # type: ignore[arg-type]
        n,
        TINY,
        targets,
        slow=frozenset({BROADCAST, SEMIRING_EINSUM} if peers else ()),
        memory=n == 1024 or peers,
        tolerance=tolerance,
    )


_FORWARD = "matrix product over log of standard normal scores"
_BOTH = f"{_FORWARD}, forward and backward"
_FEW = "the same where 1% of the shifted sums underflow"
_ALL = "the same where all shifted sums underflow, within exp(700)"
_CHAINS = (
    "248 products of 64x64: LinearChain potentials of 8 chains, lengths 7-32, -1e5 for absent, 44% unsafe"
)
_CHARTS = "256 products of 64x31 and 31x64: CKY charts, -1e5 for absent symbols, 8% unsafe"

LOG = (
    _log_row("", 512, _FORWARD, AtLeast(0.6, REAL), AtLeast(100, SEMIRING_EINSUM), peers=True),
    _log_row("", 1024, _FORWARD, AtLeast(0.75, REAL)),
    _log_row("", 2048, _FORWARD),
    _log_row(", float64", 512, f"{_FORWARD}, in float64", dtype=torch.float64),
    _log_row(", gradients", 512, _BOTH, AtLeast(0.7, REAL), peers=True, gradients=True),
    _log_row(", gradients", 1024, _BOTH, AtLeast(0.7, REAL), gradients=True),
    _log_row(", gradients", 2048, _BOTH, AtLeast(0.7, REAL), gradients=True),
    *(
        _log_row(
            f", {kind}{', gradients' * both}", 512, note, AtLeast(1 / most, SAFE), make=make, gradients=both
        )
        for kind, note, most, make in (
            ("1% unsafe", _FEW, 3, operands.few_unsafe),
            ("all unsafe", _ALL, 8, operands.all_unsafe),
        )
        for both in (False, True)
    ),
    *(
        _log_row(
            name + ", gradients" * both,
            64,
            note,
            *targets,
            peers=True,
            tolerance=2e-2 if both else 2e-5,
            make=make,
            gradients=both,
        )
        for name, note, targets, make in (
            ("padded chains", _CHAINS, (AtLeast(10, BROADCAST),), operands.padded_chains),
            ("cky charts", _CHARTS, (), operands.cky_charts),
        )
        for both in (False, True)
    ),
)


def without_extension(call: Call) -> Call:
    """The same call as it runs where the C extension isn't built."""

    def alone() -> object:
        with patch.object(tropical_native, "available", return_value=False):
            return call()

    return alone


BROADCASTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max_plus": lambda a, b: (a.unsqueeze(2) + b.unsqueeze(0)).amax(1),
    "min_plus": lambda a, b: (a.unsqueeze(2) + b.unsqueeze(0)).amin(1),
    "max_times": lambda a, b: (a.unsqueeze(2) * b.unsqueeze(0)).amax(1),
    "max_min": lambda a, b: torch.minimum(a.unsqueeze(2), b.unsqueeze(0)).amax(1),
}


def _tropical(n: int, semiring: str, broadcast: bool = False, extension: bool = True) -> Contest:
    given = operands.pair(n)
    if semiring == "max_times":
        given = given[0].abs(), given[1].abs()
    ours: Call = lambda: einfx.einsum(MATRICES, *given, semiring=semiring)  # noqa: E731
    calls: dict[str, Call | None] = {OURS: ours if extension else without_extension(ours)}
    if extension and semiring != "max_min":
        calls[TROPICAL_GEMM] = _call(tropical_gemm(semiring), given)
    if broadcast:
        calls[BROADCAST] = _call(BROADCASTS[semiring], given)
    limits: dict[str, Call | None] = {REAL: _call(torch.mm, given)}
    if extension:
        limits[ceiling.CEILING] = ceiling.additions_and_maxima(n**3)
    return Contest(calls, exact(MATRICES, semiring, *given), limits)


def _argmax(n: int) -> Contest:
    given = operands.pair(n)

    def ours() -> object:
        values, places = einfx.einsum(MATRICES, *given, semiring="max_plus", return_argmax=True)
        return values, places[..., 0]

    def peer() -> Callable[..., object] | None:
        viterbi = semiring_einsum(MATRICES, "max_plus")
        if viterbi is None:
            return None

        def call(*given: Tensor) -> object:
            values, places = viterbi(*given)
            return values, places[..., 0]

        return call

    calls: dict[str, Call | None] = {
        OURS: ours,
        TROPICAL_GEMM: _call(tropical_gemm("max_plus", argmax=True), given),
        SEMIRING_EINSUM: _call(peer(), given),
    }
    return Contest(calls, exact_argmax(MATRICES, "max_plus", *given), {REAL: _call(torch.mm, given)})


def _tropical_gradients(n: int) -> Contest:
    given = operands.pair(n)
    calls = {
        OURS: _gradients(_ours(MATRICES, "max_plus"), given),
        TROPICAL_GEMM: _gradients(tropical_gemm_module("max_plus"), given),
    }
    limits = {REAL: _gradients(torch.mm, given)}
    return Contest(calls, exact_gradients(MATRICES, "max_plus", *given), limits)


_LARGE = (AtLeast(0.45, REAL), AtLeast(1, TROPICAL_GEMM))
_SLOW = frozenset({BROADCAST, SEMIRING_EINSUM})

TROPICAL = (
    *(
        Row(
            f"max_plus {n}",
            "matrix product over max_plus",
            partial(_tropical, semiring="max_plus", broadcast=n == 512),
            n,
            TINY,
            _LARGE,
            slow=_SLOW,
            memory=n == 1024,
            unmeasured=frozenset({ceiling.CEILING}),
        )
        for n in (512, 1024, 2048)
    ),
    Row("max_plus 512, argmax", "values and indices of what was selected", _argmax, 512, TINY, slow=_SLOW),
    Row("max_plus 512, gradients", "forward and backward", _tropical_gradients, 512, TINY),
    *(
        Row(
            f"{semiring} 512",
            f"matrix product over {semiring}",
            partial(_tropical, semiring=semiring, broadcast=True),
            512,
            TINY,
            slow=_SLOW,
        )
        for semiring in ("min_plus", "max_times", "max_min")
    ),
    Row(
        "max_plus 512, no extension",
        "matrix product over max_plus where the C extension isn't built",
        partial(_tropical, semiring="max_plus", broadcast=True, extension=False),
        512,
        TINY,
        (AtLeast(8, BROADCAST),),
        slow=_SLOW,
    ),
)


def _boolean(n: int) -> Contest:
    numbers = operands.pair(n)
    a, b = numbers[0] > 1.5, numbers[1] > 1.5
    calls: dict[str, Call | None] = {
        OURS: lambda: einfx.einsum(MATRICES, a, b, semiring="boolean"),
        "float32 product > 0": lambda: torch.mm(a.float(), b.float()) > 0,
    }
    return Contest(calls, exact(MATRICES, "boolean", a, b), {REAL: _call(torch.mm, numbers)})


BOOLEAN = tuple(
    Row(
        f"boolean {n}",
        "matrix product over boolean, one entry in 15 true",
        _boolean,
        n,
        TINY,
        (AtLeast(1.0, REAL),),
        memory=n == 1024,
    )
    for n in (512, 1024, 2048)
)
