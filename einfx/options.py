"""What a contraction means beside its equation: its semiring, how corner cases count, what it may take.

    >>> options = Options.read("log", linear_operands=(1,))
    >>> options.semiring.name, options.keywords()
    ('log', {'semiring': 'log', 'linear_operands': (1,)})

They travel with a contraction through plans, graphs and compiled code; as keywords they are text and numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import Any

import torch

from .algebra import Semiring
from .errors import UsageError
from .semiring import get, semirings

__all__ = [
    "KEYWORDS",
    "REAL",
    "Options",
    "bytes_of",
    "means_nothing_else",
    "read_device",
    "read_dtype",
    "read_keywords",
]


@dataclass(frozen=True)
class Options:
    """The options of one contraction; equal options mean the same.

    Args:
        semiring: over which it sums, its ``zero_annihilates`` as wanted.
        linear_operands: positions of operands that a log contraction takes as they are instead of as
            logarithms, ascending.
        grad_of_neg_inf: the derivative of a log sum that is -inf with respect to each of its terms, as text
            (nan as a number would defeat comparisons).
        block_size: the longest range of a summed label in one block.
        memory_limit: the most bytes beyond the caller's tensors.
    """

    semiring: Semiring
    linear_operands: tuple[int, ...] = ()
    grad_of_neg_inf: str = "nan"
    block_size: int | None = None
    memory_limit: int | None = None

    @classmethod
    def read(
        cls,
        semiring: str | Semiring = "real",
        *,
        linear_operands: Sequence[int] = (),
        zero_annihilates: bool | None = None,
        grad_of_neg_inf: float | str = math.nan,
        block_size: int | None = None,
        memory_limit: int | str | None = None,
    ) -> Options:
        """The options that keywords of :func:`einfx.einsum` say.

        Raises:
            UsageError: an unknown semiring, or a keyword that it has no use for.
        """
        algebra = get(semiring)
        known = semirings().get(algebra.name)
        if known is not None and known.annihilating(algebra.zero_annihilates) != algebra:
            raise UsageError(
                f"there's another semiring {algebra.name!r} already; give this one a different name"
            )
        if zero_annihilates is not None:
            if not isinstance(zero_annihilates, bool):
                raise UsageError(f"zero_annihilates={zero_annihilates!r}: it is True, False or None")
            algebra = algebra.annihilating(zero_annihilates)
        linear = tuple(sorted(set(linear_operands)))
        if linear and algebra.name != "log":
            raise UsageError(
                f"linear_operands={linear} says which operands of a log contraction aren't logarithms; "
                f"semiring {algebra.name!r} has none that are, so leave it out"
            )
        gradient = _gradient_text(grad_of_neg_inf)
        if gradient != "nan" and algebra.name != "log":
            raise UsageError(
                f"grad_of_neg_inf={grad_of_neg_inf!r} is for the log semiring, not for {algebra.name!r}"
            )
        size = None if block_size is None else _whole(block_size)
        if block_size is not None and (size is None or size < 1):
            raise UsageError(
                f"block_size={block_size!r}: it is the longest range of a summed label, a number from 1 up"
            )
        limit = None if memory_limit is None else bytes_of(memory_limit)
        return cls(algebra, linear, gradient, size, limit)

    @property
    def is_plain(self) -> bool:
        """Whether this is what torch.einsum does: real numbers, without a limit."""
        return self == REAL

    @property
    def is_limited(self) -> bool:
        """Whether the contraction has to work in blocks."""
        return self.block_size is not None or self.memory_limit is not None

    def keywords(self) -> dict[str, Any]:
        """The keywords of :func:`einfx.einsum` that say this, without those that keep their default.

        Raises:
            UsageError: the semiring isn't registered, so that it has no name to write.
        """
        known = semirings().get(self.semiring.name)
        if known is None or known.annihilating(self.semiring.zero_annihilates) != self.semiring:
            raise UsageError(
                f"semiring {self.semiring.name!r} is part of a program that is traced or compiled, which "
                "holds it by name; register it first: einfx.register_semiring(...)"
            )
        words: dict[str, Any] = {}
        if known.name != "real":
            words["semiring"] = known.name
        if known.zero_annihilates != self.semiring.zero_annihilates:
            words["zero_annihilates"] = self.semiring.zero_annihilates
        if self.linear_operands:
            words["linear_operands"] = self.linear_operands
        if self.grad_of_neg_inf != "nan":
            number = self.grad_of_neg_inf
            words["grad_of_neg_inf"] = number if number == "uniform" else float(number)
        if self.block_size is not None:
            words["block_size"] = self.block_size
        if self.memory_limit is not None:
            words["memory_limit"] = self.memory_limit
        return words

    def words(self) -> tuple[Any, Any, Any, Any, Any, Any]:
        """All of :data:`KEYWORDS`, as :func:`read_keywords` takes them."""
        gradient = self.grad_of_neg_inf
        number = gradient if gradient == "uniform" else float(gradient)
        annihilates = self.semiring.zero_annihilates or None
        rest = self.linear_operands, annihilates, number, self.block_size, self.memory_limit
        return self.semiring, *rest

    def linear(self, *positions: int) -> Options:
        """The same with other linear operands."""
        chosen = tuple(sorted(positions))
        return self if chosen == self.linear_operands else replace(self, linear_operands=chosen)

    def unlimited(self) -> Options:
        """The same without a limit."""
        return replace(self, block_size=None, memory_limit=None) if self.is_limited else self


REAL = Options(get("real"))
"""What torch.einsum does."""


KEYWORDS = (
    "semiring",
    "linear_operands",
    "zero_annihilates",
    "grad_of_neg_inf",
    "block_size",
    "memory_limit",
)
"""The keywords of :func:`einfx.einsum` that say what a contraction means, as functions here take them."""


def means_nothing_else(
    semiring: Any,
    linear_operands: Sequence[int],
    zero_annihilates: bool | None,
    grad_of_neg_inf: Any,
    block_size: int | None,
    memory_limit: Any,
) -> bool:
    """Whether these keywords of :func:`einfx.einsum` say what torch.einsum does, without a closer look."""
    if not isinstance(semiring, str) or semiring != "real" or zero_annihilates:
        return False
    return block_size is None and memory_limit is None and not linear_operands and grad_of_neg_inf is math.nan


def read_keywords(
    semiring: str | Semiring,
    linear_operands: Sequence[int] = (),
    zero_annihilates: bool | None = None,
    grad_of_neg_inf: float | str = math.nan,
    block_size: int | None = None,
    memory_limit: int | str | None = None,
) -> Options:
    """What :meth:`Options.read` makes of keywords, remembered from call to call.

    Raises:
        UsageError: as :meth:`Options.read`; linear operands that are no sequence of positions.

    Example:
        >>> read_keywords("real", memory_limit="1 KiB").memory_limit
        1024
    """
    if not isinstance(linear_operands, (tuple, list)) or any(_whole(x) is None for x in linear_operands):
        raise UsageError(f"linear_operands={linear_operands!r}: it is a sequence of positions, such as (2,)")
    # One object for nan, so that the cache finds it.
    if isinstance(grad_of_neg_inf, float) and math.isnan(grad_of_neg_inf):
        grad_of_neg_inf = math.nan
    words = semiring, tuple(linear_operands), zero_annihilates, grad_of_neg_inf, block_size, memory_limit
    try:
        return _read_keywords(*words)
    except TypeError:  # what can't be hashed
        return _read_keywords.__wrapped__(*words)


# Typed, as True and 1.0 are equal to 1, but are no number of bytes.
@lru_cache(maxsize=1024, typed=True)
def _read_keywords(
    semiring: str | Semiring,
    linear_operands: tuple[int, ...],
    zero_annihilates: bool | None,
    grad_of_neg_inf: float | str,
    block_size: int | None,
    memory_limit: int | str | None,
) -> Options:
    return Options.read(
        semiring,
        linear_operands=linear_operands,
        zero_annihilates=zero_annihilates,
        grad_of_neg_inf=grad_of_neg_inf,
        block_size=block_size,
        memory_limit=memory_limit,
    )


_UNITS = {"": 1, "b": 1}
_UNITS.update({f"{letter}ib": 1 << 10 * (i + 1) for i, letter in enumerate("kmgt")})
_UNITS.update({f"{letter}b": 1000 ** (i + 1) for i, letter in enumerate("kmgt")})


def bytes_of(limit: int | str) -> int:
    """A memory limit in bytes.

    Args:
        limit: bytes, or text such as ``"512MiB"`` (1 MiB is 1024² bytes, 1 MB is 1000²).

    Raises:
        UsageError: something else.

    Example:
        >>> bytes_of("1.5 KiB"), bytes_of(4096)
        (1536, 4096)
    """
    number = _whole(limit)
    if number is not None and number >= 0:
        return number
    text = limit.strip().lower() if isinstance(limit, str) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"memory_limit={limit!r}: it is a number of bytes, or text such as '512MiB'")
    return int(float(found[1]) * _UNITS[found[2]])


def _whole(value: Any) -> int | None:
    """A whole number of Python or NumPy as one of Python; None for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return None


def read_device(device: Any) -> torch.device:
    """The device that a keyword names, whether or not it is there.

    Args:
        device: ``"cpu"``, ``"cuda:0"`` or a torch.device.

    Raises:
        UsageError: torch knows of no such device.

    Example:
        >>> read_device("cuda:1").index
        1
    """
    if not isinstance(device, (str, torch.device)):
        raise UsageError(f"device={device!r}: it is text such as 'cpu' or 'cuda:0', or a torch.device")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device!r}: {str(error).splitlines()[0]}") from None


def read_dtype(dtype: Any) -> torch.dtype:
    """The dtype that a keyword names.

    Raises:
        UsageError: it's no dtype of torch.

    Example:
        >>> read_dtype(torch.float64)
        torch.float64
    """
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"dtype={dtype!r}: it is a dtype of torch, such as torch.float64")
    return dtype


def _gradient_text(value: float | str) -> str:
    if value == "uniform" or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return str(value) if isinstance(value, str) else str(float(value))
    raise UsageError(f"grad_of_neg_inf={value!r}: it is a number, or 'uniform' for equal shares")
