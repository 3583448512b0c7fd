"""Matrix products over semirings beside real ones of the same shape: ``python -m benchmarks.semirings``.

A real product of torch is the limit: the ratio says which part of its throughput a semiring reaches.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from einfx.kernels import boolean, log, native, tropical

from .timing import Measurement, Spread, interleave

__all__ = ["CASES", "Case", "Result", "run"]

REAL = "torch"
OURS = "einfx"
NAIVE = "broadcast"


@dataclass(frozen=True)
class Case:
    """A product to time.

    Attributes:
        name: what is shown.
        make: gives the calls by name, ``"torch"`` among them.
    """

    name: str
    make: Callable[[], dict[str, Callable[[], object]]]


@dataclass(frozen=True)
class Result:
    """Times of one case at one number of threads."""

    case: str
    threads: int
    measurement: Measurement

    def share(self) -> Spread:
        """Which part of the real product's throughput is reached."""
        return self.measurement.ratio(REAL, OURS)

    def line(self) -> str:
        """One line for people."""
        own, share = self.measurement.time(OURS).median, self.share()
        text = f"{self.case:36}{self.threads:2} thread(s) {own * 1e3:9.2f} ms  {share.median:5.2f} of {REAL}"
        if NAIVE in self.measurement.seconds:
            text += f"  {self.measurement.ratio(NAIVE, OURS).median:6.1f} times the {NAIVE}"
        return text


def scores(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def padded_chains(states: int = 64) -> tuple[Tensor, Tensor]:
    """Potentials (8·31, states, states) of chains of lengths 7 to 32, absent ones marked by -1e5."""
    x = scores(8, 31, states, states)
    for chain in range(8):
        length = 7 + chain * 25 // 7
        x[chain, length - 1 :] = -1e5
        x[chain, length - 1 :].diagonal(dim1=1, dim2=2).fill_(0)
    x = x.reshape(-1, states, states)
    return x, x.flip(0)


def few_unsafe(n: int) -> tuple[Tensor, Tensor]:
    """A hundredth of the entries underflows in a single shifted product."""
    a, b, few = scores(1, n, n), scores(1, n, n + 1)[..., :n], n // 10
    a[:, :few, n // 2 :] -= 400
    b[:, : n // 2, :few] -= 400
    return a, b


def all_unsafe(n: int) -> tuple[Tensor, Tensor]:
    """All of the entries do, within exp(700)."""
    a, b = scores(1, n, n), scores(1, n, n)
    a[..., n // 2 :] -= 300
    b[:, : n // 2] -= 300
    return a, b


def _log(
    operands: Callable[[], tuple[Tensor, Tensor]], naive: bool = False
) -> dict[str, Callable[[], object]]:
    a, b = operands()
    calls: dict[str, Callable[[], object]] = {
        REAL: lambda: torch.bmm(a, b),
        OURS: lambda: log.matmul(a, b),
    }
    if naive:
        calls[NAIVE] = lambda: torch.logsumexp(a[..., None] + b[:, None], 2)
    return calls


def _log_gradient(n: int) -> dict[str, Callable[[], object]]:
    a, b, grad = scores(1, n, n).requires_grad_(), scores(1, n, n).requires_grad_(), scores(1, n, n)
    return {
        REAL: lambda: torch.autograd.grad(torch.bmm(a, b), (a, b), grad),
        OURS: lambda: torch.autograd.grad(log.matmul(a, b), (a, b), grad),
    }


def _tropical(n: int, argmax: bool = False) -> dict[str, Callable[[], object]]:
    a, b = scores(1, n, n), scores(1, n, n)
    return {
        REAL: lambda: torch.bmm(a, b),
        OURS: lambda: tropical.matmul(a, b, return_argmax=argmax),
    }


def _boolean(n: int) -> dict[str, Callable[[], object]]:
    a, b = scores(1, n, n), scores(1, n, n)
    x, y = a > 1, b > 1
    return {REAL: lambda: torch.bmm(a, b), OURS: lambda: boolean.matmul(x, y)}


def _random(n: int) -> tuple[Tensor, Tensor]:
    return scores(1, n, n), scores(1, n, n)


CASES = (
    *(Case(f"log, n = {n}", partial(_log, partial(_random, n))) for n in (512, 1024)),
    Case("log, n = 512, 1% unsafe", partial(_log, partial(few_unsafe, 512))),
    Case("log, n = 512, all unsafe", partial(_log, partial(all_unsafe, 512))),
    Case("log, 248 padded chains of 64 states", partial(_log, padded_chains, naive=True)),
    *(Case(f"log, n = {n}, with gradients", partial(_log_gradient, n)) for n in (512, 1024)),
    *(Case(f"max_plus, n = {n}", partial(_tropical, n)) for n in (512, 1024)),
    Case("max_plus, n = 512, with argmax", partial(_tropical, 512, argmax=True)),
    *(Case(f"boolean, n = {n}", partial(_boolean, n)) for n in (512, 1024)),
)


def run(threads: list[int], budget_seconds: float) -> list[Result]:
    """Time all cases.

    Args:
        threads: numbers of threads.
        budget_seconds: for each case and number.
    """
    before = torch.get_num_threads()
    results = []
    try:
        for count in threads:
            torch.set_num_threads(count)
            results += [Result(case.name, count, interleave(case.make(), budget_seconds)) for case in CASES]
    finally:
        torch.set_num_threads(before)
    return results


def main() -> None:
    """Print all cases."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.semirings", description=__doc__)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, such as 1,2")
    parser.add_argument("--seconds", default=1.0, type=float, help="time for each case")
    options = parser.parse_args()
    print(f"extension: {native.describe()}")
    for result in run([int(count) for count in options.threads.split(",")], options.seconds):
        print(result.line())


if __name__ == "__main__":
    main()
