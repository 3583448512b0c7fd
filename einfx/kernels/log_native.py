"""The optional C code for products over the log semiring: whether it is there, and how it is called.

It does the elementwise passes around the real matrix product, in one pass over memory where torch takes four.
Like the other extension it is a plain shared library, loaded with ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .log_scratch import scratch
from .native import LEVELS, load, threads

__all__ = [
    "bound",
    "describe",
    "divide",
    "finish",
    "meet",
    "shift",
    "single_gradient",
    "single_sums",
    "takes",
]

LEVEL = len(LEVELS) - 1
"""The best instruction set to use, a position in ``LEVELS``; a machine without it gets a worse one."""


@cache
def _library() -> ctypes.CDLL | None:
    return load("_log", _declare)


def _declare(library: ctypes.CDLL) -> None:
    pointer: Any = ctypes.c_void_p
    integer: Any = ctypes.c_int
    real: Any = ctypes.c_float
    rest = [integer, integer, pointer]
    library.einfx_log_shift.argtypes = [pointer] * 5 + [integer, integer, real, real, *rest]
    library.einfx_log_finish.argtypes = [pointer] * 5 + [real, integer, *rest]
    library.einfx_log_divide.argtypes = [pointer] * 4 + rest
    library.einfx_log_meet.argtypes = [pointer] * 6 + rest
    library.einfx_log_bound.argtypes = [pointer] * 6 + [real, *rest]
    library.einfx_log_single.argtypes = [pointer] * 7 + rest
    for name in ("shift", "finish", "divide", "meet", "bound", "single"):
        getattr(library, f"einfx_log_{name}").restype = ctypes.c_int64


def describe() -> str:
    """One line for people: the instruction set that is used here, or that the C code is missing.

    Example:
        >>> describe() in {"C, baseline", "C, AVX2", "C, AVX-512", "not built"}
        True
    """
    library = _library()
    return "not built" if library is None else f"C, {LEVELS[library.einfx_log_level()]}"


def takes(*tensors: Tensor) -> bool:
    """Whether the C code is there and can read all of these, (B, M, N); none is empty."""
    return _library() is not None and all(
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.numel() > 0
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        for tensor in tensors
    )


def _rest() -> tuple[int, int, ctypes.c_void_p | None]:
    return LEVEL, torch.get_num_threads(), threads()


def shift(
    x: Tensor,
    dim: int,
    window: float,
    *,
    linear: bool = False,
    scale: float | None = None,
    plain: bool = True,
    place: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor, bool]:
    """Maxima along a dimension, and exponentials of the distance to them.

    Args:
        x: (B, M, N), as :func:`takes` wants it.
        dim: 1 or 2.
        window: exponentials of what is further below its maximum are 0.
        linear: x isn't logarithms: maxima are those of absolute values, and x is divided by them.
        scale: what to multiply exponentials by, in a second result, which is of scratch memory.
        plain: whether those without it are wanted.
        place: the name of the scratch memory, for the first result too unless there's a second one.

    Returns:
        Exponentials (B, M, N), those times the scale, both None if they aren't wanted; maxima (B, M, 1) or
        (B, 1, N); and whether there's nan or +inf, with which the others are useless.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0]]])
        >>> if takes(x):
        ...     exponentials, _, tops, _ = shift(x, 2, 80.0)
        ...     assert tops.item() == 1 and exponentials[0, 0, 0] == 1
    """
    if x.stride(2) != 1 and x.stride(1) != 1:
        x = x.contiguous()
    # Rows of a single element had better be columns.
    flipped = x.stride(2) != 1 or (x.shape[2] == 1 and x.stride(1) == 1)
    view = x.mT if flipped else x
    shape = view.shape

    def result(name: str | None) -> Tensor:
        return view.new_empty(shape) if name is None else scratch(name, shape)

    first = result(None if scale is not None else place) if plain else None
    second = result(place) if scale is not None else None
    tops = x.new_empty((x.shape[0], x.shape[1], 1) if dim == 2 else (x.shape[0], 1, x.shape[2]))
    special = _call().einfx_log_shift(
        view.data_ptr(),
        None if first is None else first.data_ptr(),
        None if second is None else second.data_ptr(),
        tops.data_ptr(),
        (ctypes.c_int64 * 5)(*shape, view.stride(0), view.stride(1)),
        (dim == 1) != flipped,
        linear,
        window,
        1.0 if scale is None else scale,
        *_rest(),
    )
    if flipped:
        first, second = None if first is None else first.mT, None if second is None else second.mT
    return first, second, tops, bool(special)


def finish(sums: Tensor, logs: Tensor, tops: tuple[Tensor, Tensor], low: float, power: int) -> int:
    """From sums of scaled exponentials to logarithms.

    Args:
        sums: (B, I, J), contiguous; they lose their scale, and become 0 where they aren't above ``low`` then.
        logs: (B, I, J), contiguous: where to write logarithms, -inf where the sum becomes 0, and nan where it
            is negative. It may be ``sums`` itself.
        tops: what to add to them, (B, I, 1) and (B, 1, J).
        low: the smallest sum that is right.
        power: the scale is 2 to it.

    Returns:
        How many sums became 0.
    """
    tensors = sums, logs, tops[0].contiguous(), tops[1].contiguous()
    shape = (ctypes.c_int64 * 3)(*sums.shape)
    return int(_call().einfx_log_finish(*(x.data_ptr() for x in tensors), shape, low, power, *_rest()))


def divide(x: Tensor, sums: Tensor, *, in_place: bool = False) -> tuple[Tensor, int]:
    """``x / sums``, and 0 where a sum is 0; and how many are.

    Args:
        x: (B, I, J), as :func:`takes` wants it; contiguous if it is changed in place.
        sums: (B, I, J), contiguous.
        in_place: whether to put the quotients into ``x``, rather than into scratch memory.
    """
    if x.stride(2) != 1:
        x = x.contiguous()
    out = x if in_place else scratch("quotients", sums.shape)
    geometry = (ctypes.c_int64 * 5)(*x.shape, x.stride(0), x.stride(1))
    pointers = (tensor.data_ptr() for tensor in (x, sums, out))
    return out, int(_call().einfx_log_divide(*pointers, geometry, *_rest()))


def meet(product: Tensor, total: Tensor, reference: Tensor, tops: tuple[Tensor, Tensor]) -> None:
    """Add sums that are relative to other numbers.

    Args:
        product: (B, I, J), relative to the sums of both tops; contiguous, like the next two.
        total: (B, I, J), is changed.
        reference: (B, I, J), what it is relative to: -inf where the total is 0. It is changed: the larger of
            two where both have something.
        tops: (B, I, 1) and (B, 1, J).
    """
    tensors = product, total, reference, tops[0].contiguous(), tops[1].contiguous()
    shape = (ctypes.c_int64 * 3)(*product.shape)
    _call().einfx_log_meet(*(x.data_ptr() for x in tensors), shape, *_rest())


def bound(
    total: Tensor, reference: Tensor, wanted: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], margin: float
) -> tuple[Tensor, bool]:
    """Find the sums that products with these tops could change.

    Args:
        total: (B, I, J), contiguous like the next one.
        reference: (B, I, J), what it is relative to.
        wanted: (B, I, J), bool: which to look at.
        pairs: up to four pairs of (B, I, 1) and (B, 1, J).
        margin: how far below the logarithm of a total something changes it, below 0.

    Returns:
        Which these are, (B, I, J), and whether there are any.
    """
    wanted = wanted.contiguous()
    flags = torch.empty_like(wanted)
    tops = [top.contiguous() for pair in pairs for top in pair]
    pointers = (ctypes.c_void_p * 8)(*(top.data_ptr() for top in tops))
    geometry = (ctypes.c_int64 * 4)(*total.shape, len(pairs))
    tensors = total, reference, wanted, flags
    found = _call().einfx_log_bound(*(x.data_ptr() for x in tensors), pointers, geometry, margin, *_rest())
    return flags, bool(found)


def single_sums(a: Tensor, b: Tensor, logs: Tensor) -> None:
    """Put sums that are taken term by term in the place of -inf.

    Args:
        a: (B, I, K), logarithms as :func:`takes` wants them, without nan and +inf.
        b: (B, K, J), likewise.
        logs: (B, I, J), is changed.
    """
    _single(a, b, logs)


def single_gradient(a: Tensor, b: Tensor, logs: Tensor, sums: Tensor, grad: Tensor, result: Tensor) -> None:
    """Add to the gradient of ``b``, term by term, that of finite logarithms whose sums are 0.

    Args:
        a: (B, I, K), logarithms as :func:`takes` wants them, without nan and +inf.
        b: (B, K, J), likewise.
        logs: (B, I, J).
        sums: (B, I, J), of the same strides.
        grad: (B, I, J).
        result: (B, K, J), is changed.
    """
    _single(a, b, logs, sums, grad, result)


def _single(a: Tensor, b: Tensor, logs: Tensor, *rest: Tensor) -> None:
    sizes = *a.shape, b.shape[2]
    tensors = (a, b, logs, *rest)
    strides = [stride for x in (a, b, logs, *rest[1:]) for stride in x.stride()]
    geometry = (ctypes.c_int64 * 19)(*sizes, *strides)
    pointers = [x.data_ptr() for x in tensors] + [None] * (6 - len(tensors))
    if _call().einfx_log_single(*pointers, geometry, *_rest()) < 0:
        raise MemoryError(f"no memory for {sizes[2]} terms of sums that are taken one by one")


def _call() -> ctypes.CDLL:
    library = _library()
    assert library is not None, "takes() says whether there's a library"
    return library
