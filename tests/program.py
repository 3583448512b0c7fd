"""A generated program: readable source of a module with example inputs, run beside its optimised form."""

from __future__ import annotations

import itertools
import linecache
import math
import operator
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

import einfx
from tests.semiring_judge import judge

__all__ = ["BATCH", "OPERATOR", "ORACLE", "Program", "TensorSpec", "tensor"]

BATCH = 5
"""The size that stands for the batch: no other dimension has it, and no program writes it as a number."""


def tensor(
    shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0, layout: str = "contiguous"
) -> torch.Tensor:
    """Reproducible numbers of either sign, none of them near zero.

    Args:
        shape: the shape of the result.
        dtype: any dtype; integers lie between -3 and 3.
        seed: equal seeds give equal numbers.
        layout: how the result lies in memory: ``contiguous``, ``transposed`` (its dimensions in reverse),
            ``strided`` (every second column) or ``expanded`` (stride 0 in the first dimension).
    """
    stored = list(shape)
    if layout == "transposed":
        stored = stored[::-1]
    elif layout == "strided" and stored:
        stored[-1] *= 2
    elif layout == "expanded" and stored:
        stored[0] = min(stored[0], 1)
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(stored, dtype=torch.float64, generator=random) * 1.5 + 0.5
    values = values * (torch.randint(0, 2, stored, generator=random) * 2 - 1)
    if dtype.is_complex:
        values = torch.complex(values, values.flip(-1) if stored else values)
    elif dtype is torch.bool:
        values = values > 0
    elif not dtype.is_floating_point:
        values = (values * 2).trunc().clamp(-3, 3)
    values = values.to(dtype)
    if layout == "transposed":
        return values.permute(tuple(reversed(range(len(stored)))))
    if layout == "strided" and stored:
        return values[..., ::2]
    return values.expand(tuple(shape)) if layout == "expanded" else values


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be made: an argument or a piece of state."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    layout: str = "contiguous"

    def make(self, batch: int = BATCH, ones: Sequence[int] = ()) -> torch.Tensor:
        """The tensor, with another size of batch, and size 1 in the dimensions ``ones``."""
        sizes = [batch if size == BATCH else size for size in self.shape]
        return tensor(
            [1 if i in ones else n for i, n in enumerate(sizes)], self.dtype, self.seed, self.layout
        )

    def __str__(self) -> str:
        return f"tensor({self.shape}, {self.dtype}, seed={self.seed}, layout={self.layout!r})"


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``function``; during symbolic tracing, recorded as a call of it.

    Tracing itself can't record an assignment to an item, and takes ``x *= 2`` for ``x = x * 2``; both are
    in graphs that other front ends capture.
    """

    def call(first: Any, *rest: Any) -> Any:
        if isinstance(first, fx.Proxy):
            return first.tracer.create_proxy("call_function", function, (first, *rest), {})
        return function(first, *rest)

    return call


OPERATOR = types.SimpleNamespace(
    **{name: _recorded(getattr(operator, name)) for name in ("setitem", "imul", "iadd", "isub", "itruediv")},
    **{name: getattr(operator, name) for name in ("mul", "truediv", "neg", "matmul", "add", "sub")},
)


def _dense_pattern(*numbers: Any) -> torch.Tensor:
    return einfx.IndexPattern(*numbers).tensor(torch.float64)


ORACLE = types.SimpleNamespace(einsum=judge, IndexPattern=_dense_pattern)
"""What stands for einfx where a program is to run on torch alone."""

_count = itertools.count()


@dataclass(frozen=True)
class Program:
    """A module as source, with example inputs.

    Its text is all there is to it: it can be read, pasted into a file and run.
    """

    parameters: tuple[TensorSpec, ...]
    buffers: tuple[TensorSpec, ...]
    inputs: tuple[TensorSpec, ...]
    lines: tuple[str, ...]
    result: str

    @property
    def source(self) -> str:
        """The definition of the class."""
        state = [f"self.w{i} = nn.Parameter({spec})" for i, spec in enumerate(self.parameters)]
        state += [f'self.register_buffer("c{i}", {spec})' for i, spec in enumerate(self.buffers)]
        arguments = "".join(f", x{i}" for i in range(len(self.inputs)))
        return "\n".join(
            [
                "class Model(nn.Module):",
                "    def __init__(self):",
                "        super().__init__()",
                *(f"        {line}" for line in state),
                "",
                f"    def forward(self{arguments}):",
                *(f"        {line}" for line in self.lines),
                f"        return {self.result}",
            ]
        )

    def __repr__(self) -> str:
        return f"{self.source}\n\ninputs = ({', '.join(map(str, self.inputs))},)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How Hypothesis shows a failing example."""
        printer.text(f"\n{self!r}\n")

    def model(self, *, oracle: bool = False) -> nn.Module:
        """An instance; the ``oracle`` runs on torch alone, with its own einsum in place of einfx.einsum."""
        namespace: dict[str, Any] = {
            "torch": torch,
            "nn": nn,
            "F": F,
            "math": math,
            "operator": OPERATOR,
            "einfx": ORACLE if oracle else einfx,
            "tensor": tensor,
            "__name__": "program",
        }
        filename = f"<program {next(_count)}>"
        linecache.cache[filename] = (len(self.source), None, self.source.splitlines(keepends=True), filename)
        exec(compile(self.source, filename, "exec"), namespace)
        model: nn.Module = namespace["Model"]()
        return model

    def arguments(self, batch: int = BATCH, ones: Sequence[int] = ()) -> list[torch.Tensor]:
        """Fresh inputs; ``ones`` are the dimensions that become 1, counted through all inputs."""
        made, counted = [], 0
        for spec in self.inputs:
            made.append(spec.make(batch, [i - counted for i in ones]))
            counted += len(spec.shape)
        return made
