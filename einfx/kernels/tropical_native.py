"""The optional C code for semirings whose addition selects: whether it is there, and how it is called."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from .native import LEVELS, load

__all__ = ["available", "describe", "tropical_matmul", "workspace_bytes"]

PLUS, TIMES, MINIMUM = range(3)
PRODUCTS = {
    "max_plus": (PLUS, False),
    "min_plus": (PLUS, True),
    "max_times": (TIMES, False),
    "max_min": (MINIMUM, False),
}
"""By semiring: its multiplication, as the extension numbers them, and whether numbers are negated."""


@cache
def _library() -> ctypes.CDLL | None:
    return load("_tropical", _declare)


def _declare(library: ctypes.CDLL) -> None:
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for function in (library.einfx_tropical_f32, library.einfx_tropical_f64):
        function.argtypes = [pointer] * 5 + [number] * 5
        function.restype = number
    workspace = library.einfx_tropical_workspace
    workspace.argtypes = [pointer, number, number]
    workspace.restype = ctypes.c_int64


def available() -> bool:
    """Whether the extension was built and can be loaded."""
    return _library() is not None


def describe() -> str:
    """One line for people: the instruction set that the extension uses here, or that it is missing.

    Example:
        >>> describe() in {"C, baseline", "C, AVX2", "C, AVX-512", "not built"}
        True
    """
    library = _library()
    return "not built" if library is None else f"C, {LEVELS[library.einfx_tropical_level()]}"


def tropical_matmul(
    semiring: str,
    a: Tensor,
    b: Tensor,
    *,
    argmax: bool = False,
    zero_annihilates: bool = False,
    level: str = LEVELS[-1],
) -> tuple[Tensor, Tensor | None]:
    """A batch of matrix products over a semiring whose addition selects, on the CPU.

    Args:
        semiring: one of ``PRODUCTS``.
        a: (B, I, K), of any strides; float32 or float64.
        b: (B, K, J), of the same dtype.
        argmax: whether to find the index of what was selected too.
        zero_annihilates: whether the semiring's zero wins over infinity and nan.
        level: the best instruction set to use; a worse one is used where the machine lacks it.

    Returns:
        Values (B, I, J), and int64 indices into K of the first term that equals them, or None.

    Raises:
        MemoryError: there's no memory for the packed panels, :func:`workspace_bytes`.

    Example:
        >>> a, b = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[5.0], [4.0]]])
        >>> if available():
        ...     values, indices = tropical_matmul("max_plus", a, b, argmax=True)
        ...     assert (values.item(), indices.item()) == (6.0, 1)
    """
    library = _library()
    if library is None:
        raise RuntimeError("einfx's C extension isn't built; reinstall einfx where there's a C compiler")
    (batch, rows, depth), columns = a.shape, b.shape[2]
    values = torch.empty(batch, rows, columns, dtype=a.dtype)
    places = torch.empty(batch, rows, columns, dtype=torch.int64) if argmax else None
    geometry = (ctypes.c_int64 * 10)(batch, rows, depth, columns, *a.stride(), *b.stride())
    function = library.einfx_tropical_f32 if a.dtype == torch.float32 else library.einfx_tropical_f64
    product, negate = PRODUCTS[semiring]
    failed = function(
        a.data_ptr(),
        b.data_ptr(),
        values.data_ptr(),
        None if places is None else places.data_ptr(),
        geometry,
        product,
        negate,
        zero_annihilates,
        LEVELS.index(level),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("no memory for the packed panels of a tropical matrix product")
    return values, places


def workspace_bytes(batch: int, rows: int, depth: int, columns: int, itemsize: int) -> int:
    """What :func:`tropical_matmul` allocates beside its results, with as many threads as torch has now.

    Example:
        >>> not available() or workspace_bytes(1, 1024, 1024, 1024, 4) < 6 << 20
        True
    """
    library = _library()
    if library is None:
        return 0
    geometry = (ctypes.c_int64 * 4)(batch, rows, depth, columns)
    return int(library.einfx_tropical_workspace(geometry, itemsize, torch.get_num_threads()))


def takes(a: Tensor, b: Tensor) -> bool:
    """Whether the extension is there and can multiply these two, (B, I, K) and (B, K, J); none is empty."""
    return (
        a.device.type == b.device.type == "cpu"
        and a.dtype == b.dtype
        and a.dtype in (torch.float32, torch.float64)
        and a.numel() > 0
        and b.numel() > 0
        and a.shape[2] < 2**31
        and not a.is_neg()
        and not b.is_neg()
        and available()
    )
