"""The threads that move blocks of tensors in the background."""

from __future__ import annotations

import sys
import traceback

import einfx.streaming.transfers

__all__ = ["transferring_threads"]


def transferring_threads() -> list[int]:
    """The identifiers of those that run; :mod:`threading` doesn't know them."""
    return [
        identifier
        for identifier, frame in sys._current_frames().items()
        if any(
            inner.f_code.co_filename == einfx.streaming.transfers.__file__ and inner.f_code.co_name == "work"
            for inner, _ in traceback.walk_stack(frame)
        )
    ]
