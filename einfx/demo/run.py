"""Optimises a model, compares the result with the original in every form, and prints what was found."""

from __future__ import annotations

import copy
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

import einfx
from einfx.options import bytes_of

from .equality import difference, in_double, own_copies, tolerance
from .measure import median_seconds
from .models import MODELS
from .reload import run_in_fresh_process

__all__ = ["Comparison", "compare", "run_demo"]

MEASURE_SECONDS = 3.0
"""How long the times of one model are measured."""


@dataclass(frozen=True)
class Comparison:
    """A model beside its optimised form.

    Attributes:
        report: what the optimisation did.
        seconds_to_optimize: how long it took.
        seconds_before: median time of the original's forward pass, in the dtype of the inputs.
        seconds_after: that of the optimised module, measured in turn with it.
        allowed: the largest relative difference that counts as equal.
        float64_difference: of the optimised module from the original, both in float64.
        script_difference: of the TorchScript form, reloaded in a fresh process, in float64; None where the
            model doesn't script.
        script_problem: why it doesn't.
    """

    report: einfx.Report
    seconds_to_optimize: float
    seconds_before: float
    seconds_after: float
    allowed: float
    float64_difference: float
    script_difference: float | None
    script_problem: str | None

    @property
    def equal(self) -> bool:
        """Whether every form gives the original's numbers, and the model scripts."""
        return self.script_difference is not None and self.numbers_equal

    @property
    def numbers_equal(self) -> bool:
        """Whether every form that there is gives the original's numbers."""
        found = (self.float64_difference, self.script_difference or 0.0)
        return all(value <= self.allowed for value in found)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that json can write, the report included."""
        values = {key: value for key, value in vars(self).items() if key != "report"}
        return {**values, "equal": self.equal, "report": self.report.to_dict()}


def compare(
    model: Any,
    inputs: tuple[Any, ...],
    *,
    torchscript: Path | None = None,
    memory_limit: int | str | None = None,
    seconds: float | None = None,
) -> Comparison:
    """Optimise a model and compare the result with it: times, float64 values, a script in a fresh process.

    The model and its inputs are left as they are.

    Args:
        model: a module or a function.
        inputs: its example arguments.
        torchscript: a file for the TorchScript form, in the model's own dtype.
        memory_limit: as in :func:`einfx.optimize`; in float64 it is as many times larger as the inputs are.
        seconds: how long to measure times; ``MEASURE_SECONDS`` if not given.

    Raises:
        EinfxError: the model can't be captured, or the inputs don't fit it.
        ModelError: the original itself fails on the inputs.
    """
    start = time.perf_counter()
    optimized = einfx.optimize(model, inputs, memory_limit=memory_limit)
    seconds_to_optimize = time.perf_counter() - start

    original = copy.deepcopy(model) if isinstance(model, nn.Module) else model
    _call_original(original, own_copies(inputs))
    before, after = _times(
        original, copy.deepcopy(optimized), inputs, MEASURE_SECONDS if seconds is None else seconds
    )

    doubles = own_copies(inputs, double=True)
    reference = in_double(model) if isinstance(model, nn.Module) else model
    expected = _call_original(reference, own_copies(doubles))
    exact = in_double(optimized)
    if memory_limit is not None:
        exact = einfx.optimize(reference, doubles, memory_limit=bytes_of(memory_limit) * _growth(inputs))
    float64_difference = difference(_seeded(exact, own_copies(doubles)), expected)

    script_difference, problem = None, None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "optimized.pt")
        try:
            _save_script(in_double(optimized), file)
            script_difference = difference(run_in_fresh_process(file, doubles), expected)
            if torchscript is not None:
                _save_script(copy.deepcopy(optimized), torchscript)
        except Exception as error:  # whatever torch.jit has to say about code that it can't compile
            problem = first_line(error)
    return Comparison(
        report=optimized.report,
        seconds_to_optimize=seconds_to_optimize,
        seconds_before=before,
        seconds_after=after,
        allowed=tolerance(expected),
        float64_difference=float64_difference,
        script_difference=script_difference,
        script_problem=problem,
    )


def _growth(inputs: tuple[Any, ...]) -> int:
    """How many times larger floating-point inputs are in float64."""
    items = [x.itemsize for x in tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return 8 // min(items, default=8)


class ModelError(RuntimeError):
    """The original model fails on the inputs that it came with."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _seeded(program: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    torch.manual_seed(0)
    return program(*inputs)


def _call_original(model: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    try:
        return _seeded(model, inputs)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"the model itself fails on its example inputs: {first_line(error)}") from error


def _times(
    original: Any, optimized: nn.Module, inputs: tuple[Any, ...], seconds: float
) -> tuple[float, float]:
    mine, yours = own_copies(inputs), own_copies(inputs)
    with torch.no_grad():
        before, after = median_seconds([lambda: original(*mine), lambda: optimized(*yours)], seconds)
    return before, after


def _save_script(module: fx.GraphModule, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(einfx.jitable(module)), str(file))


def run_demo(write: Callable[[str], object] = print) -> bool:
    """Show every model that ships with einfx.

    Args:
        write: takes the text, a piece at a time.

    Returns:
        Whether every model gave the original's numbers in every form.
    """
    start = time.perf_counter()
    rows = []
    for number, (name, factory) in enumerate(MODELS.items(), 1):
        title = f"{number}/{len(MODELS)}  {name}"
        write(f"{'=' * 78}\n{title}\n{textwrap.fill((factory.__doc__ or '').strip(), 78)}\n{'=' * 78}\n")
        model, inputs = factory()
        comparison = compare(model, inputs)
        write(describe(comparison))
        rows.append((name, comparison))
    write(f"{'=' * 78}\nIn {time.perf_counter() - start:.0f} s, on {torch.get_num_threads()} threads:\n")
    for name, comparison in rows:
        verdict = "equal everywhere" if comparison.equal else "NOT EQUAL: see above"
        speed = comparison.seconds_before / comparison.seconds_after
        write(f"  {name:24} {speed:6.2f}x eager's speed, {verdict}")
    return all(comparison.equal for _, comparison in rows)


def describe(comparison: Comparison) -> str:
    """The comparison as text: code before and after, then numbers beside eager, then how equal they are."""
    report = comparison.report
    rows = [
        _row(
            "FLOPs",
            f"{report.flops_before:,}",
            f"{report.flops_after:,}",
            report.flops_before,
            report.flops_after,
        ),
        _row(
            "peak bytes",
            _bytes(report.peak_bytes_before),
            _bytes(report.peak_bytes_after),
            report.peak_bytes_before,
            report.peak_bytes_after,
        ),
        _row(
            "time per call",
            _milliseconds(comparison.seconds_before),
            _milliseconds(comparison.seconds_after),
            comparison.seconds_before,
            comparison.seconds_after,
        ),
    ]
    rewrites = ", ".join(f"{result.name} {result.rewrites}" for result in report.passes if result.rewrites)
    lines = [
        "--- code before",
        report.code_before.strip(),
        "",
        "--- code after",
        report.code_after.strip(),
        "",
        f"{'':16}{'eager':>16}{'einfx':>16}{'ratio':>10}",
        *rows,
        "",
        f"optimised in {comparison.seconds_to_optimize:.2f} s; rewrites: {rewrites or 'none'}",
        f"float64 beside the original: {_equality(comparison.float64_difference, comparison.allowed)}",
    ]
    if report.memory is not None:
        lines += ["memory:", *(f"  {line}" for line in report.memory.lines())]
    if comparison.script_difference is None:
        lines.append(f"TorchScript: not scripted ({comparison.script_problem})")
    else:
        found = _equality(comparison.script_difference, comparison.allowed)
        lines.append(f"scripted, saved, reloaded in a process with torch alone: {found}")
    return "\n".join([*lines, ""])


def _row(name: str, before: str, after: str, old: float, new: float) -> str:
    ratio = f"{old / new:.2f}x" if new else ""
    return f"{name:16}{before:>16}{after:>16}{ratio:>10}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _equality(found: float, allowed: float) -> str:
    verdict = "equal" if found <= allowed else "DIFFERS"
    return f"{verdict}, largest relative difference {found:.1e} (allowed {allowed:.0e})"
