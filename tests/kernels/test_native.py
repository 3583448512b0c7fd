"""Extensions are loaded where they are there and whole, and read only what they may."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from einfx.conv import unfoldNd
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


def test_gradients_of_many_at_once_are_not_read() -> None:
    x = torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)
    out = unfoldNd(x, 2, stride=2)
    vectors = torch.randn(3, *out.shape, dtype=torch.float64)
    (got,) = torch.autograd.grad(out, x, vectors, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, x, vector, retain_graph=True)[0] for vector in vectors]
    assert torch.equal(got, torch.stack(each))
