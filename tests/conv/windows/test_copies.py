"""Windows and their adjoint against dense patterns, for any padding and cropping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.conv.windows.copies import add_windows, copy_windows, window_view
from einfx.kernels import windows_native
from einfx.pattern import IndexPattern
from tests.conv.reference import close
from tests.test_pattern import patterns

PAIRS = st.tuples(patterns(), patterns())


def dense(pair: tuple[IndexPattern, IndexPattern]) -> list[Tensor]:
    """Both patterns as tensors."""
    return [pattern.tensor(torch.float64) for pattern in pair]


@pytest.fixture(params=["C", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C code where it was built, and what is there without it."""
    if request.param == "torch":
        monkeypatch.setattr(windows_native, "takes", lambda *_: False)


@pytest.mark.usefixtures("kernel")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIRS, st.booleans())
def test_windows_are_contractions_with_patterns(
    pair: tuple[IndexPattern, IndexPattern], channels_first: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *(pattern.input_size for pattern in pair), dtype=torch.float64)
    equation = "ncxy,kox,lpy->" + ("cklnop" if channels_first else "ncklop")
    expected = torch.einsum(equation, x, *dense(pair))
    got = copy_windows(x, pair, channels_first)
    assert torch.equal(got, expected)
    assert got.is_contiguous()


@pytest.mark.usefixtures("kernel")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIRS, st.booleans())
def test_adding_windows_is_the_adjoint(pair: tuple[IndexPattern, IndexPattern], channels_first: bool) -> None:
    torch.manual_seed(0)
    kernels, outputs = [p.kernel_size for p in pair], [p.output_size for p in pair]
    shape = (3, *kernels, 2, *outputs) if channels_first else (2, 3, *kernels, *outputs)
    windows = torch.randn(shape, dtype=torch.float64)
    equation = ("cklnop" if channels_first else "ncklop") + ",kox,lpy->ncxy"
    expected = torch.einsum(equation, windows, *dense(pair))
    got = add_windows(windows, pair, channels_first)
    assert close(got, expected)
    assert got.is_contiguous()


def test_windows_without_padding_are_a_view() -> None:
    x = torch.randn(2, 3, 7, 8)
    view = window_view(x, [IndexPattern(7, 3, 2), IndexPattern(8, 2, dilation=3, padding=(-1, 0))])
    assert view.shape == (2, 3, 3, 2, 3, 4)
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert torch.equal(view[:, :, 2, 1, 1, 3], x[:, :, 4, 7])
