"""Hypothesis strategies that make programs of contractions over semirings, and all around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from tests.builder import Builder, Operation
from tests.operations import ALPHABETS, ARRANGE, CONTRACT, MUTATE, SCALE, SMOOTH, label_for
from tests.program import Program

__all__ = ["FLAVOURS", "SEMIRINGS", "semiring_programs"]

SEMIRINGS = (
    *("log",) * 5,
    *("max_plus",) * 3,
    *("min_plus", "max_times", "max_min", "base_two", "narrowest", "boolean", "real") * 2,
)
"""Names as often as they are drawn."""


class SemiringBuilder(Builder):
    """A builder of a program over one or two semirings, so that their contractions meet."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.semirings = [self.pick(SEMIRINGS) for _ in range(self.pick((1, 1, 1, 2)))]


def contraction(b: Builder) -> str | None:
    """An einsum over some semiring, of one to four operands, with options now and then."""
    semiring = b.pick(b.semirings if isinstance(b, SemiringBuilder) else SEMIRINGS)
    wanted = torch.bool if semiring == "boolean" else torch.float64
    count = b.pick((2, 2, 2, 1, 3, 3, 4))
    names = [b.name(lambda t: t.ndim <= 3 and t.dtype == wanted) for _ in range(count)]
    operands = [name for name in names if name is not None]
    if not operands:
        return None
    sizes: list[int] = []
    labels = [[label_for(b, sizes, size) for size in b.values[name].shape] for name in operands]
    used = sorted({label for part in labels for label in part})
    output = [used[i] for i in b.shuffled(len(used))][: b.between(0, min(3, len(used)))]
    options, operands = _options(b, semiring, operands)
    alphabet = b.pick(ALPHABETS)
    if len(used) and max(used) >= len(alphabet):
        return None
    if b.chance(10) and len(operands) > 1:
        parts = [f"{name}, {part}" for name, part in zip(operands, labels, strict=True)]
        return f"einfx.einsum({', '.join([*parts, str(output)])}, {options})"
    words = ["".join(alphabet[label] for label in part) for part in [*labels, output]]
    given = ", ".join(operands)
    if b.chance(10):
        given = f"[{given}]"
    return f'einfx.einsum("{",".join(words[:-1])}->{words[-1]}", {given}, {options})'


def _options(b: Builder, semiring: str, operands: list[str]) -> tuple[str, list[str]]:
    """Keywords as text, and the operands as the semiring takes them."""
    options = [f"semiring={semiring!r}"]
    if semiring == "max_times":
        operands = [f"{name}.abs()" for name in operands]
    if semiring == "log" and b.chance(25):
        position = b.between(0, len(operands) - 1)
        operands = [f"{x}.sigmoid()" if i == position else x for i, x in enumerate(operands)]
        options.append(f"linear_operands=({position},)")
    if semiring == "log" and b.chance(5):
        options.append("grad_of_neg_inf=0.0")
    if semiring not in ("real", "boolean") and b.chance(5):
        options.append(b.pick(("block_size=2", "memory_limit='1MiB'", "zero_annihilates=True")))
    return ", ".join(options), operands


SHIFTS = (
    "{a} + {c}", "{c} + {a}", "{a} - {c}", "torch.add({a}, {c})", "{a}.add({c})", "torch.sub({a}, {c})",
    "{a}.sub({c})", "({a} + {c}) - 2", "{a} + {c} + 0.5", "{c} - {a}", "torch.add({a}, {c}, alpha=2)",
    "{a} - {c} * {a}", "{a} - -{c}",
)  # fmt: skip


def shift(b: Builder) -> str | None:
    """A value plus a constant, in any spelling, and what looks like it."""
    name = b.name(lambda t: t.dtype == torch.float64)
    return None if name is None else b.pick(SHIFTS).format(
        a=name, c=b.pick(("1.5", "0.75", "3", "2.0", "0.1", "40.0", "0", "1", "10.0"))
    )  # fmt: skip


REDUCTIONS = (
    "torch.logsumexp({s}, -2)", "({s}).logsumexp(dim=-1)", "({s}).logsumexp((-2, -1))", "({s}).max(-2)[0]",
    "torch.max({s}, -2).values", "({s}).min(dim=-1)[0]", "({s}).amax(-2)", "torch.logsumexp({s}, -3)",
)  # fmt: skip
SUMS = ("{a}.unsqueeze(-1) + {b}", "{a}[..., None] + {b} + {a}[..., None, :]", "{b} + {a}[:, :, None] + 1.5")


def reduction(b: Builder) -> str | None:
    """A reduction of a broadcast sum, which says what a contraction over a semiring does."""
    first = b.name(lambda t: t.dtype == torch.float64 and 1 <= t.ndim <= 3)
    if first is None:
        return None
    size = b.values[first].shape[-1]
    second = b.name(lambda t: t.dtype == torch.float64 and t.ndim == 2 and size in (1, t.shape[0]))
    total = None if second is None else b.pick(SUMS).format(a=first, b=second)
    return None if total is None else b.pick(REDUCTIONS).format(s=total)


def again(b: Builder) -> str | None:
    """What another line says, once more."""
    said = [line.split(" = ", 1)[1] for line in b.lines if line.startswith("v") and " = " in line]
    return b.pick(said) if said else None


def compare(b: Builder) -> str | None:
    """A value that is bool."""
    name = b.name(lambda t: t.dtype == torch.float64)
    return None if name is None else b.pick(("{a} > 0", "{a}.lt(0.5)", "{a} >= 1")).format(a=name)


OVER_SEMIRINGS = (contraction,) * 6 + (reduction,) * 2 + (shift,) * 3 + ARRANGE + (again, compare)
FLAVOURS: dict[str, tuple[Operation, ...]] = {
    "values": OVER_SEMIRINGS * 2 + SCALE + SMOOTH[:1] + CONTRACT[:1],
    "smooth": (contraction,) * 6 + (reduction,) + (shift,) * 3 + ARRANGE + (again,) + SCALE[:1],
    "mutations": OVER_SEMIRINGS * 2 + MUTATE * 6,
}


@st.composite
def semiring_programs(draw: Callable[[st.SearchStrategy[Any]], Any], flavour: str = "values") -> Program:
    """Programs over semirings, of one of the ``FLAVOURS``; the layouts of smooth ones make no ties."""
    layouts = ("contiguous", "contiguous", "transposed", "strided")
    dtypes = (torch.float64,) if flavour == "smooth" else (torch.float64,) * 6 + (torch.bool,)
    b = SemiringBuilder(draw, dtypes, layouts=layouts if flavour == "smooth" else (*layouts, "expanded"))
    for _ in range(b.between(2, 9)):
        operation = b.pick(FLAVOURS[flavour])
        text = operation(b)
        if text is None:
            continue
        if operation in MUTATE:
            if b.act(text):
                assume(b.moderate)
            continue
        b.assign(text)
    if not any("semiring=" in line for line in b.lines):
        text = contraction(b)
        assume(text is not None and b.assign(text))
    return b.finish()
