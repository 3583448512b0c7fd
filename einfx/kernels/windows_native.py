"""The optional C code that copies windows and adds them up: whether it is there, and how it is called.

It writes each window where it belongs, with zeros for padding, and never pads a copy of the input; and it
adds windows up row by row, reading each of them once. Like the other extensions it is a plain shared library,
loaded with ctypes.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from ..pattern import IndexPattern
from .native import LEVELS, load, readable
from .native import threads as threads_of_torch

__all__ = ["add_windows", "adds", "copy_windows", "describe", "takes"]

Patterns = tuple[IndexPattern, ...]

LEVEL = len(LEVELS) - 1
"""The best instruction set to use, a position in ``LEVELS``; a machine without it gets a worse one."""

MAX_DIMENSIONS = 8


@cache
def _library() -> ctypes.CDLL | None:
    return load("_windows", _declare)


def _declare(library: ctypes.CDLL) -> None:
    pointer: Any = ctypes.c_void_p
    for function in (library.einfx_windows_copy, library.einfx_windows_add):
        function.argtypes = [pointer] * 3 + [ctypes.c_int, ctypes.c_int, pointer]
        function.restype = ctypes.c_int


def describe() -> str:
    """One line for people: the instruction set that is used here, or that the C code is missing.

    Example:
        >>> describe() in {"C, baseline", "C, AVX2", "C, AVX-512", "not built"}
        True
    """
    library = _library()
    return "not built" if library is None else f"C, {LEVELS[library.einfx_windows_level()]}"


def takes(x: Tensor, patterns: Patterns) -> bool:
    """Whether the C code is there and can copy windows of a tensor, (batch, channels, *input_sizes).

    It reads memory, so there must be some, and nobody may be recording what is computed.

    Example:
        >>> takes(torch.ones(1, 1, 4, device="meta"), (IndexPattern(4, 2),))
        False
    """
    return _library() is not None and readable(x) and 1 <= len(patterns) <= MAX_DIMENSIONS


def adds(windows: Tensor, patterns: Patterns) -> bool:
    """Whether the C code is there and can add up windows, as :func:`copy_windows` returns them.

    Example:
        >>> adds(torch.ones(1, 1, 2, 3, dtype=torch.int64), (IndexPattern(4, 2),))
        False
    """
    floats = windows.dtype in (torch.float32, torch.float64)
    return floats and takes(windows, patterns) and windows.is_contiguous()


def copy_windows(x: Tensor, patterns: Patterns, channels_first: bool = False) -> Tensor:
    """Every window of a tensor, as :func:`einfx.conv.windows.copies.copy_windows`, on the CPU.

    Args:
        x: shape: (batch, channels, *input_sizes), as :func:`takes` wants it; any dtype and strides.
        patterns: the pattern of each spatial dimension.
        channels_first: whether the batch goes behind the kernel.

    Returns:
        A new tensor, contiguous, shape: (batch, channels, *kernel_sizes, *output_sizes), or (channels,
        *kernel_sizes, batch, *output_sizes).

    Raises:
        MemoryError: there's no memory for some rows of the input.

    Example:
        >>> x, patterns = torch.arange(4.0).reshape(1, 1, 4), (IndexPattern(4, 2, stride=2, padding=1),)
        >>> if takes(x, patterns):
        ...     windows = copy_windows(x, patterns)
        ...     assert windows.tolist() == [[[[0.0, 1.0, 3.0], [0.0, 2.0, 0.0]]]]
    """
    library = _loaded()
    geometry, shape = _geometry(patterns, tuple(x.shape[:2]), x.stride(), x.element_size(), channels_first)
    out = x.new_empty(shape)
    threads = torch.get_num_threads()
    if library.einfx_windows_copy(x.data_ptr(), out.data_ptr(), geometry, LEVEL, threads, threads_of_torch()):
        raise MemoryError(f"no memory for rows of windows of a tensor of shape {tuple(x.shape)}")
    return out


def add_windows(windows: Tensor, patterns: Patterns, channels_first: bool = False) -> Tensor:
    """Sums of windows, each where it came from, as :func:`einfx.conv.windows.copies.add_windows`, on the CPU.

    Args:
        windows: shape: as :func:`copy_windows` returns it; as :func:`adds` wants it.
        patterns: the pattern of each spatial dimension.
        channels_first: whether the batch is behind the kernel.

    Returns:
        A new tensor, shape: (batch, channels, *input_sizes).

    Raises:
        MemoryError: there's no memory for a row of the result.

    Example:
        >>> windows, patterns = torch.ones(1, 1, 2, 3), (IndexPattern(4, 2),)
        >>> if adds(windows, patterns):
        ...     assert add_windows(windows, patterns).tolist() == [[[1.0, 2.0, 2.0, 1.0]]]
    """
    library, n = _loaded(), len(patterns)
    first, other = windows.shape[0], windows.shape[1 + n if channels_first else 1]
    batch, channels = (other, first) if channels_first else (first, other)
    # The C code has two dimensions at least.
    numbers = [max(n, 2), windows.element_size(), int(channels_first), batch, channels]
    numbers += [1, 1, 1, 1, 1, 0] * (n == 1)
    for pattern in patterns:
        numbers += [pattern.input_size, pattern.kernel_size, pattern.output_size]
        numbers += [pattern.stride, pattern.dilation, pattern.left]
    out = windows.new_empty((batch, channels, *[pattern.input_size for pattern in patterns]))
    geometry, threads = (ctypes.c_int64 * len(numbers))(*numbers), torch.get_num_threads()
    if library.einfx_windows_add(
        windows.data_ptr(), out.data_ptr(), geometry, LEVEL, threads, threads_of_torch()
    ):
        raise MemoryError(f"no memory for a row of a tensor of shape {tuple(out.shape)}")
    return out


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("einfx's C extension isn't built; reinstall einfx where there's a C compiler")
    return library


@lru_cache(maxsize=1024)
def _geometry(
    patterns: Patterns, lead: tuple[int, int], strides: tuple[int, ...], item: int, channels_first: bool
) -> tuple[Any, tuple[int, ...]]:
    """What the C code wants to know, and the shape of the windows."""
    (batch, channels), n = lead, len(patterns)
    numbers = [max(n, 2), item, int(channels_first), batch, channels, strides[0] * item, strides[1] * item]
    if n == 1:
        # The C code has two dimensions at least.
        numbers += [1, 1, 1, 1, 1, 0, 0]
    for pattern, stride in zip(patterns, strides[2:], strict=True):
        numbers += [pattern.input_size, pattern.kernel_size, pattern.output_size, pattern.stride]
        numbers += [pattern.dilation, pattern.left, stride * item]
    kernels, outputs = [p.kernel_size for p in patterns], [p.output_size for p in patterns]
    shape = [channels, *kernels, batch] if channels_first else [batch, channels, *kernels]
    return (ctypes.c_int64 * len(numbers))(*numbers), (*shape, *outputs)
