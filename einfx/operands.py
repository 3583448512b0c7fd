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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import OperandError

__all__ = ["as_tensor", "is_array", "is_resident", "mapped"]

SMALL_BYTES = 1 << 20
"""Operands below this are taken for ordinary ones, unless they say that they are files."""

MAPS = Path("/proc/self/maps")

PROBES = 64
"""At how many places is asked whether a file is in memory already."""


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
        OperandError: torch has no tensors of such a dtype, byte order or strides.

    Example:
        >>> import numpy as np
        >>> array = np.arange(6.0).reshape(2, 3).T
        >>> array.flags.writeable = False
        >>> as_tensor(array, "operand 0")
        tensor([[0., 3.],
                [1., 4.],
                [2., 5.]], dtype=torch.float64)
    """
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
