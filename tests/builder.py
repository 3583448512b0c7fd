"""Builds a program line by line, running each line as it's added, so that what is built always runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from tests.program import BATCH, OPERATOR, ORACLE, Program, TensorSpec, tensor

__all__ = ["Builder", "Operation"]

T = TypeVar("T")
Operation = Callable[["Builder"], "str | None"]
"""Draws an expression over the builder's names, or None where none of them fits."""

LARGEST = 1e9
SMALLEST_DIVISOR = 0.05


class Builder:
    """The names of a growing program and their present values.

    Args:
        draw: Hypothesis's.
        dtypes: the dtypes of inputs and state to choose from.
        layouts: how inputs may lie in memory, see :func:`tests.program.tensor`.
    """

    def __init__(
        self,
        draw: Callable[[st.SearchStrategy[Any]], Any],
        dtypes: Sequence[torch.dtype],
        layouts: Sequence[str] = ("contiguous",) * 5 + ("transposed", "strided", "expanded"),
    ) -> None:
        self.draw = draw
        self.layouts = layouts
        self.seed = 0
        self.inputs = [self._spec(dtypes, batched=True) for _ in range(self.between(1, 3))]
        self.parameters = [
            spec
            for spec in (self._spec(dtypes, batched=False) for _ in range(self.between(0, 2)))
            if spec.dtype.is_floating_point or spec.dtype.is_complex
        ]
        self.buffers = [self._spec(dtypes, batched=False) for _ in range(self.between(0, 1))]
        self.lines: list[str] = []
        empty = Program(tuple(self.parameters), tuple(self.buffers), tuple(self.inputs), (), "None")
        self.model = empty.model(oracle=True)
        arguments = empty.arguments()
        self.values = {f"x{i}": value for i, value in enumerate(arguments)}
        self.values |= {f"self.{name}": value for name, value in self.model.named_parameters()}
        self.values |= {f"self.{name}": value for name, value in self.model.named_buffers()}
        self.exact = set(self.values)
        """The names whose values no reordering of sums can change: one may divide by them, or round them."""
        self.namespace: dict[str, Any] = {
            "torch": torch,
            "F": F,
            "math": math,
            "operator": OPERATOR,
            "einfx": ORACLE,
            "tensor": tensor,
            "self": self.model,
            **{name: value for name, value in self.values.items() if "." not in name},
        }

    def _spec(self, dtypes: Sequence[torch.dtype], *, batched: bool) -> TensorSpec:
        rank = self.pick((2, 2, 3, 1, 0) if not batched else (2, 2, 3, 3, 1, 4, 0))
        shape = [self.pick((3, 2, 4, 3, 1)) for _ in range(rank)]
        if batched and shape and self.chance(60):
            shape[0] = BATCH
        layout = self.pick(self.layouts)
        if not batched:
            layout = "contiguous"
        self.seed += 1
        return TensorSpec(tuple(shape), self.pick(dtypes), self.seed, layout)

    def pick(self, choices: Sequence[T]) -> T:
        chosen: T = self.draw(st.sampled_from(choices))
        return chosen

    def between(self, low: int, high: int) -> int:
        number: int = self.draw(st.integers(low, high))
        return number

    def chance(self, percent: int) -> bool:
        return self.between(0, 99) >= 100 - percent

    def shuffled(self, count: int) -> list[int]:
        order: list[int] = self.draw(st.permutations(range(count)))
        return order

    def name(self, accept: Callable[[torch.Tensor], bool] = lambda _: True) -> str | None:
        """One of the names whose value ``accept`` takes; more often one that no line uses yet."""
        names = [name for name, value in reversed(self.values.items()) if accept(value)]
        if not names:
            return None
        unused = [name for name in names if name in self.unused]
        return self.pick([name for name in unused if name.startswith("v")][:2] * 4 + unused + names)

    @property
    def unused(self) -> set[str]:
        """The names that no line reads."""
        read = set(re.findall(r"\b(?:self\.)?[vxwc]\d+\b", " ".join(x.split(" = ")[-1] for x in self.lines)))
        return set(self.values) - read

    def exact_name(self) -> str | None:
        """A name that one may divide by."""
        names = [name for name in self.exact if self._far_from_zero(self.values[name])]
        return self.pick(sorted(names)) if names else None

    @staticmethod
    def _far_from_zero(value: torch.Tensor) -> bool:
        if value.dtype is torch.bool or value.numel() == 0:
            return False
        return float(value.detach().abs().min()) > SMALLEST_DIVISOR

    def size(self, number: int) -> str:
        """A size as text: the batch is never written as a number."""
        if number != BATCH:
            return str(number)
        for name, value in self.values.items():
            if BATCH in value.shape:
                return f"{name}.shape[{list(value.shape).index(BATCH)}]"
        return "-1"

    def assign(self, expression: str, *, exact: bool = False) -> bool:
        """Add ``vN = expression``, unless it fails or gives something that isn't a moderate tensor."""
        try:
            value = eval(expression, self.namespace)
        except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, NotImplementedError):
            return False
        if not isinstance(value, torch.Tensor) or value.ndim > 5 or value.numel() > 3000:
            return False
        if not _moderate(value):
            return False
        name = f"v{sum(line.startswith('v') and ' = ' in line for line in self.lines)}"
        self.values[name] = self.namespace[name] = value
        self.lines.append(f"{name} = {expression}")
        if exact:
            self.exact.add(name)
        return True

    def act(self, statement: str) -> bool:
        """Add a statement that changes a value in place, unless it fails."""
        try:
            exec(statement, self.namespace)
        except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, NotImplementedError):
            return False
        self.lines.append(statement)
        self.exact.clear()
        return True

    def finish(self) -> Program:
        """The program, with an output drawn."""
        made = [name for name in reversed(self.values) if name.startswith("v")] or ["x0"]
        ends = [name for name in made if name in self.unused] or made[:1]
        result = ends[0] if len(ends) == 1 else f"({', '.join(ends)})"
        if self.chance(30):
            other, third = self.pick(made), self.pick(list(self.values))
            forms = ("({0}, {1})", "[{1}, {0}]", "({0}, {0})", "({2}, ({0}, {1}))", '{{"a": {0}, "b": {1}}}')
            result = self.pick((*forms, "({0}, None, 3)", "({0}, {2})", "{0}")).format(ends[0], other, third)
        parts = tuple(self.parameters), tuple(self.buffers), tuple(self.inputs)
        return Program(*parts, tuple(self.lines), result)

    @property
    def moderate(self) -> bool:
        """Whether every value is finite and of moderate size, after whatever was changed in place."""
        return all(_moderate(value) for value in self.values.values())


def _moderate(value: torch.Tensor) -> bool:
    if value.dtype is torch.bool or value.numel() == 0:
        return True
    limit = 100.0 if value.dtype is torch.float16 else LARGEST
    return float(value.detach().abs().max()) < limit
