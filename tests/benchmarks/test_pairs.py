"""The benchmark of pairs: its operands, its calls, its table."""

import pytest
import torch

from benchmarks import pairs
from benchmarks.pairs import Pair, Timed


@pytest.mark.parametrize("layout", pairs.LAYOUTS)
def test_operands_of_every_layout_have_the_shape(layout: str) -> None:
    operand = pairs.operand(layout, (3, 4, 5), torch.Generator().manual_seed(0))
    assert operand.shape == (3, 4, 5)
    assert operand.is_contiguous() == (layout == "contiguous")


def test_sizes_belong_to_labels_as_they_appear() -> None:
    assert Pair("bij,bjk->bik", (2, 3, 4, 5), "contiguous", False).shapes() == [(2, 3, 4), (2, 4, 5)]


def test_every_form_has_as_many_sizes_as_labels() -> None:
    for pair in pairs.pairs():
        assert len(pair.shapes()) == pair.equation.count(",") + 1


@pytest.mark.parametrize("gradients", [False, True])
def test_all_compute_the_same(gradients: bool) -> None:
    results = [call() for call in Pair("ac,abc->cb", (3, 4, 5), "contiguous", gradients).calls().values()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_the_table_lists_what_is_slower() -> None:
    (timed,) = pairs.run([Pair("ij,j->i", (4, 4), "reversed", False)], 0.01)
    assert set(timed.seconds) == {"einfx", "torch.einsum", "opt_einsum"}
    fast = Timed(timed.pair, {"einfx": 1.0, "torch.einsum": 2.0, "opt_einsum": 3.0})
    slow = Timed(timed.pair, {"einfx": 3.0, "torch.einsum": 2.0, "opt_einsum": 3.0})
    assert "nowhere" in pairs.section([fast])
    assert "| 1.50 |" in pairs.section([fast, slow])
