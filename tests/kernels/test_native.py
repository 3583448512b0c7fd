"""Extensions are loaded where they are there and whole, and read only what they may."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from einfx.kernels import native, windows_native


def missing(library: ctypes.CDLL) -> None:
    library.einfx_no_such_function.restype = ctypes.c_int


def test_extensions_of_another_version_count_as_missing() -> None:
    assert native.load("_windows", missing) is None
    assert native.load("_no_such_file", lambda library: None) is None


@pytest.mark.skipif(windows_native.describe() == "not built", reason="the C extension isn't built")
def test_extensions_that_are_there_are_loaded() -> None:
    library = native.load("_windows", lambda library: None)
    assert library is not None
    assert 0 <= library.einfx_windows_level() < len(native.LEVELS)


def test_only_memory_that_holds_the_numbers_is_read() -> None:
    x = torch.ones(3)
    assert native.readable(x)
    assert native.readable(torch.nn.Parameter(x))
    assert not native.readable(x.to("meta"))
    assert not native.readable(torch.ones(3, dtype=torch.complex64).conj())
    assert not native.readable(torch.ones(3, dtype=torch.complex64).conj().imag)
    assert not native.readable(x.to_sparse())
    with FakeTensorMode() as mode:
        assert not native.readable(mode.from_tensor(x))
        assert not native.readable(x)
    seen = []

    def look(row: torch.Tensor) -> torch.Tensor:
        seen.append(native.readable(row))
        return row

    torch.func.vmap(look)(torch.ones(2, 3))
    assert seen == [False]
