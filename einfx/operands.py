"""What an operand may be beside a tensor, and whether it lies in a file.

NumPy arrays become tensors of the same memory, those of mapped files that can't be written included. NumPy
itself is never imported here: where an operand is an array, it's there.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Sequence
from math import prod
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import OperandError

__all__ = ["as_tensor", "check_operand", "is_array", "is_resident", "mapped", "shape_of"]

SMALL_BYTES = 1 << 20
"""Operands below this are taken for ordinary ones, unless they say that they are files."""

MOST_ELEMENTS = 1 << 59
"""A tensor of more, of 16 bytes each, isn't to be had, and torch can't count them."""

MAPS = Path("/proc/self/maps")

PROBES = 64
"""At how many places is asked whether a file is in memory already."""


def check_operand(call: str, position: int, value: Any) -> None:
    """Refuse what can't be contracted.

    Args:
        call: how errors name the call.
        position: of the operand.
        value: the operand.

    Raises:
        OperandError: it's no tensor, or one whose elements aren't numbers side by side.

    Example:
        >>> check_operand("einsum 'i->'", 0, torch.ones(3).to_sparse())
        Traceback (most recent call last):
        einfx.errors.OperandError: einsum 'i->': operand 0 is sparse (torch.sparse_coo); ...
    """
    if not isinstance(value, Tensor):
        raise OperandError(
            f"{call}: operand {position} is a {type(value).__name__}, not a torch.Tensor; convert it by "
            "torch.as_tensor"
        )
    if value.is_nested:
        raise OperandError(
            f"{call}: operand {position} is a nested tensor, whose dimensions have several sizes; contract "
            "each of .unbind(), or pad it by .to_padded_tensor(0.0)"
        )
    if value.layout is not torch.strided:
        kind = "sparse" if "sparse" in str(value.layout) else "not strided"
        raise OperandError(
            f"{call}: operand {position} is {kind} ({value.layout}); convert it by .to_dense()"
        )
    if value.is_quantized:
        raise OperandError(
            f"{call}: operand {position} is quantized ({value.dtype}); convert it by .dequantize()"
        )


def shape_of(function: str, given: Any) -> tuple[int, ...]:
    """The shape that an argument says which is a shape or a tensor.

    Args:
        function: how errors name what was called.
        given: the argument.

    Raises:
        OperandError: it's neither.

    Example:
        >>> shape_of("contract_path", [2, 3]), shape_of("contract_path", torch.ones(4, 5))
        ((2, 3), (4, 5))
    """
    if isinstance(given, Tensor):
        return tuple(given.shape)
    try:
        shape = tuple(given)
    except TypeError:
        shape = (None,)
    if not all(isinstance(size, Integral) and int(size) >= 0 for size in shape):
        raise OperandError(f"{function} takes shapes such as (10, 20), or tensors, not {given!r}")
    # Sizes of 0 aside, since torch multiplies strides without them.
    if prod(max(int(size), 1) for size in shape) > MOST_ELEMENTS:
        raise OperandError(
            f"{function}: a tensor of the shape {shape} has more elements than can be addressed (2**59)"
        )
    return tuple([int(size) for size in shape])


def is_array(value: Any) -> bool:
    """Whether a value is a NumPy array.

    Example:
        >>> import numpy as np
        >>> is_array(np.ones(3)), is_array([1, 1, 1])
        (True, False)
    """
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def as_tensor(array: Any, name: str) -> Tensor:
    """The tensor of the memory of a NumPy array.

    Args:
        array: of any strides that are at least 0.
        name: how errors name it.

    Returns:
        A tensor, which isn't to be written: the memory may be that of a file that can't be.

    Raises:
        OperandError: torch has no tensors of such a dtype, byte order or strides, or elements are masked.

    Example:
        >>> import numpy as np
        >>> array = np.arange(6.0).reshape(2, 3).T
        >>> array.flags.writeable = False
        >>> as_tensor(array, "operand 0")
        tensor([[0., 3.],
                [1., 4.],
                [2., 5.]], dtype=torch.float64)
    """
    if isinstance(array, sys.modules["numpy"].ma.MaskedArray):
        raise OperandError(
            f"{name} is a masked array, and tensors have no mask; give what its masked elements are: "
            "array.filled(0)"
        )
    if not array.dtype.isnative:
        raise OperandError(
            f"{name} is an array of {array.dtype}, whose bytes are in the other order; convert it by "
            f"array.astype(array.dtype.newbyteorder('='))"
        )
    if any(step < 0 for step in array.strides):
        raise OperandError(
            f"{name} is an array of strides {array.strides}, and tensors have none below 0; copy it by "
            "numpy.ascontiguousarray, or reverse it afterwards"
        )
    try:
        # A single element has the dtype, and may be written.
        dtype = torch.from_numpy(_element(array)).dtype
    except TypeError:
        raise OperandError(
            f"{name} is an array of {array.dtype}, of which there are no tensors; convert it by array.astype"
        ) from None
    item = array.dtype.itemsize
    if any(step % item for step in array.strides):
        raise OperandError(
            f"{name} is an array of strides {array.strides}, which aren't multiples of its {item} bytes; "
            "copy it by numpy.ascontiguousarray"
        )
    if array.flags.writeable:
        return torch.from_numpy(array)
    if array.size == 0:
        return torch.empty(array.shape, dtype=dtype)
    # torch warns of arrays that can't be written, but not of memory of which it knows nothing more.
    extent = item + sum((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True))
    memory: Any = (ctypes.c_char * extent).from_address(array.__array_interface__["data"][0])
    memory.array = array
    flat = torch.frombuffer(memory, dtype=dtype)
    return flat.as_strided(array.shape, [step // item for step in array.strides])


def mapped(operands: Sequence[Tensor]) -> tuple[bool, ...]:
    """Which tensors in host memory lie in files that are mapped there.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes(400))
        ...     x = torch.from_file(file.name, shared=True, size=100)
        ...     mapped([torch.ones(100), x, x[10:20]])
        (False, True, True)
    """
    stretches: tuple[list[int], list[int]] | None = None
    found = []
    for operand in operands:
        there = _is_in_file(operand)
        if there is None and MAPS.exists():
            stretches = stretches or _files()
            starts, ends = stretches
            address = operand.data_ptr()
            place = bisect_right(starts, address) - 1
            there = place >= 0 and address < ends[place]
        found.append(bool(there))
    return tuple(found)


def is_resident(operand: Tensor) -> bool:
    """Whether the pages of a file, as a tensor sees it, are in memory already, all but a few.

    Args:
        operand: one that is mapped.

    Example:
        >>> is_resident(torch.ones(1000))
        True
    """
    if not MAPS.exists() or operand.numel() == 0:
        return False
    last = sum((size - 1) * step for size, step in zip(operand.shape, operand.stride(), strict=True))
    start, extent = operand.data_ptr(), (last + 1) * operand.itemsize
    ask, page = ctypes.CDLL(None).mincore, mmap.PAGESIZE
    found, there = 0, ctypes.c_ubyte()
    for probe in range(PROBES):
        address = (start + extent * probe // PROBES) // page * page
        done = ask(ctypes.c_void_p(address), ctypes.c_size_t(page), ctypes.byref(there))
        found += done == 0 and there.value & 1
    return found >= PROBES - 2


def _is_in_file(operand: Tensor) -> bool | None:
    """Whether a tensor lies in a file, by what its storage knows; None where it doesn't."""
    if operand.device.type != "cpu" or operand.layout != torch.strided or operand.is_meta:
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(operand):
        return False
    storage = operand.untyped_storage()
    if storage.filename is not None:
        return not storage.filename.startswith("/torch_")
    return None if storage.nbytes() >= SMALL_BYTES else False


def _files() -> tuple[list[int], list[int]]:
    """Where the stretches of memory begin and end that are files on a disk."""
    starts, ends = [], []
    for line in MAPS.read_text(errors="replace").splitlines():
        # Address, permissions, offset, device, inode, path.
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[4] == "0" or fields[5].startswith(("/dev/", "/memfd:", "/SYSV")):
            continue
        start, end = fields[0].split("-")
        starts.append(int(start, 16))
        ends.append(int(end, 16))
    return starts, ends


def _element(array: Any) -> Any:
    """An array of one element of the same dtype."""
    numpy = sys.modules["numpy"]
    return numpy.empty(1, dtype=array.dtype)
