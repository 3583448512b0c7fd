"""What the optional C extensions share: how one is found and loaded, its threads, and what it can read.

``setup.py`` builds them beside this file where there's a C compiler. They are plain shared libraries without
Python's headers, so they are loaded with ctypes, which lets go of the interpreter's lock during calls.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["LEVELS", "load", "readable", "threads"]

LEVELS = ("baseline", "AVX2", "AVX-512")
"""The instruction sets that there is code for, worst first."""


def load(name: str, declare: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL | None:
    """An extension with its functions declared.

    Args:
        name: of its file, without suffixes.
        declare: sets the types of its functions.

    Returns:
        None where it isn't built, can't be loaded here, or was built from another version, which lacks a
        function.

    Example:
        >>> load("_nothing", lambda library: None) is None
        True
    """
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = folder / f"{name}{suffix}"
        if file.is_file():
            try:
                library = ctypes.CDLL(str(file))
                declare(library)
            except (OSError, AttributeError):
                return None
            return library
    return None


@cache
def threads() -> ctypes.c_void_p | None:
    """The function that runs something in the threads that torch has running, or None."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None


def readable(x: Tensor) -> bool:
    """Whether the numbers of a tensor are in this machine's memory as they are, and nobody records their use.

    Example:
        >>> readable(torch.ones(2)), readable(torch.ones(2, device="meta"))
        (True, False)
    """
    return (
        type(x) in (Tensor, Parameter)
        and x.is_cpu
        and x.layout == torch.strided
        and not x.is_conj()
        and not x.is_neg()
        and not x.is_quantized
        and not x._is_zerotensor()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_legacy_batchedtensor(x)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._get_tracing_state()
    )
