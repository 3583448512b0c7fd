"""How far a contraction in blocks is: a bar on a terminal, or the caller's own function.

>>> seen = []
>>> with Progress.of(lambda *numbers: seen.append(numbers), slices=2, moved_bytes=100) as progress:
...     progress.moved(50)
...     progress.computed()
>>> seen
[(0, 2, 0, 100), (0, 2, 50, 100), (1, 2, 50, 100)]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .errors import UsageError

__all__ = ["Choice", "Progress", "check_choice"]

Choice = bool | Callable[[int, int, int, int], object] | None
"""What ``progress`` may be: a function gets slices done, all slices, bytes copied, all bytes to copy."""

DELAY_SECONDS = 3.0
"""Only work that takes longer shows a bar, where none was asked for."""

DESCRIPTION = "einsum"


class Progress:
    """How far a contraction is.

    Args:
        report: gets the four numbers whenever one of them has changed; None for nothing.
        slices: how many blocks are computed.
        moved_bytes: how much is copied from and to elsewhere.
        close: called at the end.
    """

    def __init__(
        self,
        report: Callable[[int, int, int, int], object] | None,
        slices: int,
        moved_bytes: int,
        close: Callable[[], object] | None = None,
    ) -> None:
        self._report, self._close = report, close
        self._slices, self._bytes = slices, moved_bytes
        self._slices_done = self._bytes_done = 0

    @classmethod
    def of(cls, choice: Choice, slices: int, moved_bytes: int) -> Progress:
        """What a caller chose.

        Args:
            choice: True for a bar, False for nothing, None for a bar on a terminal after some seconds, or a
                function.
            slices: how many blocks are computed.
            moved_bytes: how much is copied from and to elsewhere.

        Raises:
            UsageError: it's something else, or a bar is asked for and there's no tqdm.
        """
        check_choice(choice)
        if choice is False or (choice is None and not sys.stderr.isatty()):
            return cls(None, slices, moved_bytes)
        if choice is None or choice is True:
            bar = _bar(choice is True, slices, moved_bytes)
            return (
                cls(None, slices, moved_bytes)
                if bar is None
                else cls(bar.show, slices, moved_bytes, bar.close)
            )
        return cls(choice, slices, moved_bytes)

    def __enter__(self) -> Progress:
        self._tell()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._close is not None:
            self._close()

    def computed(self) -> None:
        """One more slice is done."""
        self._slices_done += 1
        self._tell()

    def moved(self, bytes_: int) -> None:
        """So many bytes more are copied."""
        self._bytes_done += bytes_
        self._tell()

    def _tell(self) -> None:
        if self._report is not None:
            self._report(self._slices_done, self._slices, self._bytes_done, self._bytes)


def check_choice(choice: Any) -> None:
    """Refuse what says nothing of progress.

    Raises:
        UsageError: it's neither True, False, None nor a function.
    """
    if not (choice is None or choice is True or choice is False or callable(choice)):
        raise UsageError(f"progress={choice!r}: it is True, False, None or a function of four numbers")


class _Bar:
    """A bar of tqdm: of bytes where some are copied, of slices elsewhere."""

    def __init__(self, bar: Any, by_bytes: bool) -> None:
        self.bar, self.by_bytes = bar, by_bytes

    def show(self, slices_done: int, slices: int, bytes_done: int, bytes_: int) -> None:
        done = bytes_done if self.by_bytes else slices_done
        if self.by_bytes:
            self.bar.set_postfix_str(f"slice {slices_done}/{slices}", refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


def _bar(asked: bool, slices: int, moved_bytes: int) -> _Bar | None:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        if asked:
            raise UsageError(
                "progress=True shows a bar of tqdm, which isn't installed: pip install 'einfx[progress]', or "
                "give a function of four numbers"
            ) from None
        return None
    words: dict[str, Any] = {"desc": DESCRIPTION, "delay": 0 if asked else DELAY_SECONDS, "leave": asked}
    if moved_bytes:
        bar = tqdm(total=moved_bytes, unit="B", unit_scale=True, unit_divisor=1024, **words)
    else:
        bar = tqdm(total=slices, unit="slice", **words)
    return _Bar(bar, bool(moved_bytes))
