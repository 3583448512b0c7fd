"""Who runs in the benchmark of programs: torch as it is, opt_einsum_fx, and einfx."""

import copy
import signal
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .row import Program

__all__ = ["EAGER", "OURS", "PEER", "Contestant", "contestants", "largest_error", "prepare"]

EAGER = "eager"
PEER = "opt_einsum_fx"
OURS = "einfx"

PREPARATION_SECONDS = 30
"""A contestant that has not optimised a program by then has no result for it."""

Optimizer = Callable[[nn.Module, tuple[Tensor, ...]], nn.Module]


@dataclass(frozen=True)
class Contestant:
    """A program as one contestant runs it.

    Attributes:
        model: what is run; None where the contestant failed.
        seconds: how long it took to optimise.
        error: largest deviation from eager in float64, relative to the largest entry of the result.
        failure: why there is no model; empty where there is one.
    """

    model: nn.Module | None
    seconds: float
    error: float
    failure: str = ""


def contestants() -> dict[str, Optimizer]:
    """The optimizers that are installed, by name."""
    import einfx

    found: dict[str, Optimizer] = {EAGER: lambda model, inputs: model}
    try:
        import opt_einsum_fx
    except ImportError:
        warnings.warn("opt_einsum_fx is not installed: no peer in this run", stacklevel=2)
    else:

        def peer(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
            result: nn.Module = opt_einsum_fx.optimize_einsums_full(torch.fx.symbolic_trace(model), inputs)
            return result

        found[PEER] = peer
    found[OURS] = lambda model, inputs: einfx.optimize(model, inputs)
    return found


def prepare(optimizer: Optimizer, build: Callable[[], Program]) -> Contestant:
    """Optimise a program in float32, and check the optimizer on the same program in float64.

    Args:
        optimizer: one of :func:`contestants`.
        build: makes the program.

    Returns:
        The program, or why there is none.
    """
    import time

    model, inputs = build()
    example_inputs = tuple(value.detach() for value in inputs)
    double_model, double_inputs = in_double(model, example_inputs)
    try:
        with _time_limit(PREPARATION_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            optimized = optimizer(copy.deepcopy(model), example_inputs)
            seconds = time.perf_counter() - start
            double = optimizer(copy.deepcopy(double_model), double_inputs)
        with torch.no_grad():
            error = largest_error(double(*double_inputs), double_model(*double_inputs))
            optimized(*example_inputs)
    except Exception as failure:  # whatever a contestant raises is its result
        return Contestant(None, 0.0, float("nan"), _one_line(failure))
    return Contestant(optimized, seconds, error)


def in_double(model: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    """Copies in float64."""
    return copy.deepcopy(model).double(), tuple(
        value.double() if value.is_floating_point() else value for value in inputs
    )


def largest_error(actual: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float:
    """Largest deviation, relative to the largest entry of each expected result."""
    pairs = zip(_results(actual), _results(expected), strict=True)
    return max(((a - e).abs().max() / e.abs().max()).item() for a, e in pairs)


def _results(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _one_line(failure: Exception) -> str:
    text = " ".join(str(failure).split()) or "no message"
    return f"{type(failure).__name__}: {text[:117] + '...' if len(text) > 120 else text}"


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def interrupt(signal_number: int, frame: types.FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
