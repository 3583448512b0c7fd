"""Over which algebra a contraction runs: the semirings by name.

    >>> get("max_plus").multiplication(torch.tensor(2.0), torch.tensor(3.0))
    tensor(5.)

One's own is a few lines, and works wherever these do:

    >>> bottleneck = register_semiring(
    ...     Semiring("bottleneck", torch.minimum, torch.maximum, zero=math.inf, one=-math.inf, selective=True)
    ... )
    >>> get("bottleneck").sum(torch.tensor([3.0, 1.0, 2.0]), 0)
    tensor(1.)

Integers and bool have no infinities: their smallest and largest numbers stand for them, and annihilate as
infinities do.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import accumulators
from .accumulators import Accumulator
from .algebra import Semiring
from .domains import require_non_negative
from .errors import UsageError

__all__ = ["Semiring", "get", "register_semiring", "semirings"]

Law = Callable[[Tensor, Tensor], Tensor]
Identity = Callable[[torch.dtype], Any]

_REGISTERED: dict[str, Semiring] = {}


def register_semiring(semiring: Semiring, *aliases: str) -> Semiring:
    """Make a semiring known by its name, so that programs can hold it by name: traced, compiled, pickled.

    Args:
        semiring: a semiring whose name and aliases aren't taken by another one.
        aliases: further names.

    Returns:
        The semiring, from now on in :func:`semirings`.

    Raises:
        UsageError: a name is taken by another semiring, one that is built in or not; nothing is registered.

    Example:
        How wide is the narrowest road of the best route of two roads? The widest route wins, and a route is
        as wide as its narrowest road.

        >>> import einfx
        >>> ends = {"zero": -math.inf, "one": math.inf}
        >>> widest = register_semiring(
        ...     Semiring("widest_route", torch.maximum, torch.minimum, **ends, selective=True)
        ... )
        >>> roads = torch.tensor([[0.0, 3.0, 7.0], [3.0, 0.0, 2.0], [7.0, 2.0, 0.0]])
        >>> einfx.einsum("ij,jk->ik", roads, roads, semiring="widest_route")
        tensor([[7., 2., 2.],
                [2., 3., 3.],
                [2., 3., 7.]])
    """
    if not isinstance(semiring, Semiring):
        raise UsageError(f"register_semiring takes an einfx.Semiring, not {semiring!r}")
    for name in (semiring.name, *aliases):
        if not isinstance(name, str):
            raise UsageError(f"semiring {semiring.name!r}: its alias {name!r} is no text")
        if _REGISTERED.get(name, semiring) != semiring:
            raise UsageError(f"there's another semiring {name!r} already; choose a different name")
    for name in (semiring.name, *aliases):
        _REGISTERED[name] = semiring
    return semiring


def semirings() -> dict[str, Semiring]:
    """The registered semirings by name, aliases included.

    Returns:
        A new dictionary; to add to what is registered, call :func:`register_semiring`.

    Example:
        >>> semirings()["viterbi"] is semirings()["max_plus"]
        True
    """
    return dict(_REGISTERED)


def get(semiring: str | Semiring) -> Semiring:
    """A semiring by its name; one that's given as such is returned.

    Raises:
        UsageError: nobody registered that name.

    Example:
        >>> get("viterbi").name
        'max_plus'
    """
    if isinstance(semiring, Semiring):
        return semiring
    try:
        return _REGISTERED[semiring]
    except (KeyError, TypeError):
        near = difflib.get_close_matches(str(semiring), _REGISTERED, 1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(_REGISTERED)
        raise UsageError(f"there's no semiring {semiring!r}; registered are {known}{guess}") from None


def _lowest(dtype: torch.dtype) -> Any:
    """What stands for -inf."""
    if dtype.is_floating_point:
        return -math.inf
    return False if dtype == torch.bool else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> Any:
    """What stands for +inf."""
    if dtype.is_floating_point:
        return math.inf
    return True if dtype == torch.bool else torch.iinfo(dtype).max


def _plus(infinity: Identity) -> Law:
    """Addition of numbers; integers have an infinity too, which nothing changes."""

    def plus(x: Tensor, y: Tensor) -> Tensor:
        total = torch.add(x, y)
        if total.dtype.is_floating_point:
            return total
        none = infinity(total.dtype)
        return torch.where((x == none) | (y == none), torch.full_like(total, none), total)

    return plus


_NUMBERS = ("floating", "integer")
_ORDERED = ("floating", "integer", "unsigned", "bool")
_CHOICE: dict[str, Any] = {"idempotent": True, "selective": True}


def _best(law: Law, zero: Identity) -> Accumulator:
    reduce = torch.amax if law is torch.maximum else torch.amin
    return accumulators.folded(law, zero, reduce)


register_semiring(
    Semiring(
        "real",
        torch.add,
        torch.mul,
        zero=0,
        one=1,
        dtypes=("floating", "complex", "integer", "unsigned"),
        accumulator=accumulators.folded(
            torch.add, lambda dtype: 0, lambda x, dim: torch.sum(x, dim, dtype=x.dtype)
        ),
    )
)
register_semiring(
    Semiring("log", torch.logaddexp, torch.add, zero=-math.inf, one=0, accumulator=accumulators.LOG)
)
register_semiring(
    Semiring(
        "max_plus",
        torch.maximum,
        _plus(_lowest),
        zero=_lowest,
        one=0,
        dtypes=_NUMBERS,
        accumulator=_best(torch.maximum, _lowest),
        **_CHOICE,
    ),
    "viterbi",
)
register_semiring(
    Semiring(
        "min_plus",
        torch.minimum,
        _plus(_highest),
        zero=_highest,
        one=0,
        dtypes=(*_NUMBERS, "unsigned"),
        accumulator=_best(torch.minimum, _highest),
        **_CHOICE,
    )
)
register_semiring(
    Semiring(
        "max_times",
        torch.maximum,
        torch.mul,
        zero=0,
        one=1,
        dtypes=_ORDERED,
        domain=require_non_negative,
        accumulator=_best(torch.maximum, lambda dtype: 0),
        **_CHOICE,
    )
)
register_semiring(
    Semiring(
        "max_min",
        torch.maximum,
        torch.minimum,
        zero=_lowest,
        one=_highest,
        dtypes=_ORDERED,
        accumulator=_best(torch.maximum, _lowest),
        **_CHOICE,
    )
)
register_semiring(
    Semiring(
        "boolean",
        torch.logical_or,
        torch.logical_and,
        zero=False,
        one=True,
        dtypes=("bool",),
        accumulator=accumulators.folded(torch.logical_or, lambda dtype: False, torch.any),
        **_CHOICE,
    )
)
