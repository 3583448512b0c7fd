"""What functions of tensors come to where index patterns are among their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["known_taker", "taker_of", "taking_patterns"]

_F = TypeVar("_F", bound=Callable[..., Any])
_TAKING: dict[Any, Callable[..., Any]] = {}


def taking_patterns(*functions: Callable[..., Any]) -> Callable[[_F], _F]:
    """Register what functions of tensors come to where index patterns are among their arguments.

    Args:
        functions: functions that look for ``__torch_function__`` in their operands.

    Returns:
        A decorator, which leaves the function that takes their place as it is.
    """

    def register(substitute: _F) -> _F:
        _TAKING.update(dict.fromkeys(functions, substitute))
        return substitute

    return register


def taker_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """What was registered by :func:`taking_patterns` for a function.

    Args:
        function: the function.
    """
    return _TAKING[function]


def known_taker(function: Any) -> Callable[..., Any] | None:
    """What was registered for a function, or None where nothing was.

    Args:
        function: whatever tensors are given to.
    """
    return _TAKING.get(function)
