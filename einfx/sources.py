"""Where in the user's program a node, or an error, comes from."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from types import TracebackType

import torch
from torch import fx

__all__ = ["deepest_user_line", "source_line"]

_TORCH = str(Path(torch.__file__).parent)
_EINFX = str(Path(__file__).parent)


def source_line(node: fx.Node) -> str:
    """The file, line and text that made ``node``, or its name where tracing kept no stack.

    Example:
        >>> source_line(fx.Graph().placeholder("x"))
        "node 'x'"
    """
    stack = node.meta.get("stack_trace")
    if not stack:
        return f"node {node.name!r}"
    lines = [line.strip() for line in str(stack).strip().splitlines()]
    frames = [i for i, line in enumerate(lines) if line.startswith("File ")]
    own = [i for i in frames if not lines[i].removeprefix('File "').startswith((_TORCH, _EINFX))]
    if not own:
        return f"node {node.name!r}"
    code = lines[own[-1] + 1] if own[-1] + 1 < len(lines) else ""
    code = "" if code.startswith("File ") else code
    where = lines[own[-1]].removeprefix("File ").replace('"', "").replace(", line ", ":").split(", in ")[0]
    return f"{where}: {code}" if code else where


def deepest_user_line(trace: TracebackType | None) -> str:
    """The innermost frame of a traceback that is neither torch's nor einfx's, as ``file:line: code``."""
    found = "an unknown line"
    for frame in traceback.extract_tb(trace):
        if frame.filename.startswith((_TORCH, _EINFX)) or frame.filename.startswith("<frozen"):
            continue
        code = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
        found = f"{frame.filename}:{frame.lineno}: {code}"
    return found
