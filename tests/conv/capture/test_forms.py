"""Forms: contractions whose dimensions are groups of labels."""

from __future__ import annotations

import pytest
from torch import fx

from einfx.conv.capture.forms import Apart, Dimension, Form, Leaf, SizeOf, contracted, leaf, stepped
from einfx.conv.capture.readings import Step
from einfx.graphs.scaling import Scale


def tensor(name: str, rank: int) -> tuple[Leaf, Form]:
    source = Leaf(fx.Graph().placeholder(name))
    return source, leaf(source, rank)


def test_a_merge_is_a_group_of_labels() -> None:
    _, x = tensor("x", 4)
    merged = x.flattened(1, 2)
    assert [len(group) for group in merged.output] == [1, 2, 1]
    assert str(merged.equation) == "abcd->abcd"


def test_a_tensor_takes_the_split_of_what_it_meets() -> None:
    _, x = tensor("x", 3)
    source, w = tensor("w", 2)
    form, _ = contracted([(0, 1), (2, 1)], (0, 2), [x.flattened(1, 2), w])
    assert str(form.equation) == "abc,dbc->ad"
    (split,) = [operand for operand in form.operands if isinstance(operand, Leaf) and operand.splits]
    assert split.source is source.source
    ((dim, sizes),) = split.splits
    assert dim == 1
    assert sizes.count(None) == 1


def test_merged_dimensions_meet_where_they_are_merged_alike() -> None:
    source, _ = tensor("x", 3)
    one, two = leaf(source, 3).flattened(1, 2), leaf(source, 3).flattened(1, 2)
    form, _ = contracted([(0, 1), (2, 1)], (0, 2), [one, two])
    assert str(form.equation) == "abc,dbc->ad"
    _, other = tensor("y", 3)
    with pytest.raises(Apart, match="merged"):
        contracted([(0, 1), (2, 1)], (0, 2), [one, other.flattened(1, 2)])
    with pytest.raises(Apart, match="different ways"):
        contracted([(0, 1), (2, 1)], (0, 2), [one, tensor("z", 4)[1].flattened(1, 3)])


def test_diagonals_and_splits_of_results_are_kept_apart() -> None:
    _, x = tensor("x", 2)
    with pytest.raises(Apart, match="diagonal"):
        contracted([(0, 0)], (0,), [x])
    with pytest.raises(Apart, match="split"):
        stepped(x.scaled(Scale(2, 1)), [Step("unflatten", (0, (2, -1)))])


def test_a_reshape_keeps_labels_whole() -> None:
    source, x = tensor("x", 4)
    merged = x.flattened(1, 3)
    back = merged.viewed([Dimension(0), SizeOf(source, 1), None])
    assert [len(group) for group in back.output] == [1, 1, 2]
    with pytest.raises(Apart, match="aren't known"):
        merged.viewed([Dimension(0), 3, None])
    with pytest.raises(Apart, match="aren't known"):
        merged.viewed([Dimension(0)])


def test_numbers_multiply() -> None:
    _, x = tensor("x", 2)
    form, _ = contracted([(0, 1)], (0,), [x.scaled(Scale(3, 1)).scaled(Scale(1, 2))])
    assert form.scale == Scale(3, 2)
