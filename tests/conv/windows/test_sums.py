"""Sums of windows and their adjoint against dense patterns, for any padding and cropping."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from einfx.conv.windows.sums import spread_sums, sum_windows
from einfx.pattern import IndexPattern
from tests.conv.reference import close
from tests.conv.windows.test_copies import dense
from tests.test_pattern import patterns

PAIRS = st.tuples(patterns(), patterns())


@settings(deadline=None)
@given(PAIRS)
def test_sums_are_contractions_with_patterns(pair: tuple[IndexPattern, IndexPattern]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *(pattern.input_size for pattern in pair), dtype=torch.float64)
    assert close(sum_windows(x, pair), torch.einsum("ncxy,kox,lpy->nckl", x, *dense(pair)))


@settings(deadline=None)
@given(PAIRS)
def test_spreading_is_the_adjoint(pair: tuple[IndexPattern, IndexPattern]) -> None:
    torch.manual_seed(0)
    sums = torch.randn(2, 3, *(pattern.kernel_size for pattern in pair), dtype=torch.float64)
    assert close(spread_sums(sums, pair), torch.einsum("nckl,kox,lpy->ncxy", sums, *dense(pair)))


def test_sums_of_a_long_row_are_as_exact_as_torchs() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 1, 100_000)
    exact = sum_windows(x.double(), (IndexPattern(100_000, 3, padding=1),))
    got = sum_windows(x, (IndexPattern(100_000, 3, padding=1),))
    assert close(got.double(), exact, 1e-6)
