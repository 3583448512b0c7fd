"""A function of Python written from the calls that a lowering emits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Written"]


class Written:
    """Calls that are emitted now and run later, as a function without any further decision.

    Args:
        count: how many operands the function takes.

    Attributes:
        operands: what stands for these while calls are emitted.

    Example:
        >>> written = Written(2)
        >>> a, b = written.operands
        >>> total = written.emit(torch.add, written.emit(torch.mul, a, b), a)
        >>> written.function(total)(torch.tensor(3), torch.tensor(4))
        tensor(15)
    """

    def __init__(self, count: int) -> None:
        self.operands = [_Name(f"a{i}") for i in range(count)]
        self._names: dict[Any, str] = {}
        self._calls: list[tuple[str, tuple[Any, ...]]] = []

    def emit(self, function: Any, *args: Any) -> Any:
        """What stands for the value of ``function(*args)``."""
        self._calls.append((self._names.setdefault(function, f"f{len(self._names)}"), args))
        return _Name(f"v{len(self._calls) - 1}")

    def function(self, result: Any) -> Callable[..., torch.Tensor]:
        """The function of the operands that makes all calls and returns the value of one of them."""
        lines, needed = [f"    return {result}"], {result, *self.operands}
        for number, (name, args) in reversed([*enumerate(self._calls)]):
            # What nobody needs from here on gives its memory to the next call.
            last = [x for x in args if isinstance(x, _Name) and x not in needed]
            freed = f"; del {', '.join(dict.fromkeys(last))}" if last else ""
            lines.append(f"    v{number} = {name}({', '.join(map(_source, args))}){freed}")
            needed.update(last)
        source = "\n".join([f"def program({', '.join(self.operands)}):", *reversed(lines)])
        scope: dict[str, Any] = {name: function for function, name in self._names.items()}
        exec(compile(source, "<einfx program>", "exec"), scope)
        return scope["program"]  # type: ignore[no-any-return]


class _Name(str):
    """A variable of the function that is being written."""


def _source(value: Any) -> str:
    return str(value) if isinstance(value, _Name) else repr(value)
