"""The ones of several index patterns that meet in a label, as lists of positions.

Every other way to contract a pattern asks something of where its labels are. This one takes any patterns with
any labels: their ones are joined as tables of a database are, and what a tensor holds there is gathered.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...pattern import IndexPattern

__all__ = ["Group", "Table", "grouped", "joined"]

Labelled = tuple[IndexPattern, tuple[int, int, int]]
"""A pattern with the labels of its kernel, output and input, which may be equal."""


class Table(NamedTuple):
    """Where all patterns are one: a row for each place, a column for each label."""

    labels: tuple[int, ...]
    rows: Tensor  # int64, shape: (rows, labels)


class Group(NamedTuple):
    """The outputs to which equally many places contribute."""

    keys: Tensor  # int64, shape: (outputs,), into the raveled labels of the output
    rows: Tensor  # int64, shape: (outputs, places, labels)


def joined(patterns: tuple[Labelled, ...]) -> Table:
    """The places where all patterns are one.

    Args:
        patterns: at least one.

    Returns:
        Every place once, in ascending order of its first label, then its second, and so on.

    Example:
        >>> table = joined(((IndexPattern(3, 2), (0, 1, 2)), (IndexPattern(2, 1), (4, 5, 1))))
        >>> table.labels, table.rows.tolist()
        ((0, 1, 2, 4, 5), [[0, 0, 0, 0, 0], [0, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 2, 0, 1]])
    """
    return _joined(patterns)


@lru_cache(maxsize=64)
def _joined(patterns: tuple[Labelled, ...]) -> Table:
    table = Table((), torch.zeros((1, 0), dtype=torch.int64))
    for pattern, labels in patterns:
        table = _meet(table, _ones(pattern, labels))
    rows = table.rows
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return Table(table.labels, rows)


def _ones(pattern: IndexPattern, labels: tuple[int, int, int]) -> Table:
    parts = [
        torch.stack(
            (
                torch.full((part.length,), part.kernel),
                torch.arange(part.output_start, part.output_stop),
                torch.arange(part.input_start, part.input_stop, part.input_step),
            ),
            1,
        )
        for part in pattern.slices()
    ]
    rows = torch.cat(parts)
    different = list(dict.fromkeys(labels))
    for dim, label in enumerate(labels):
        rows = rows[rows[:, dim] == rows[:, labels.index(label)]]
    return Table(tuple(different), rows[:, [labels.index(label) for label in different]])


def _meet(left: Table, right: Table) -> Table:
    """Every row of one table beside every row of the other that agrees with it."""
    shared = [label for label in right.labels if label in left.labels]
    new = [dim for dim, label in enumerate(right.labels) if label not in left.labels]
    here = torch.zeros(len(left.rows), dtype=torch.int64)
    there = torch.zeros(len(right.rows), dtype=torch.int64)
    for label in shared:
        mine, yours = left.rows[:, left.labels.index(label)], right.rows[:, right.labels.index(label)]
        size = 1 + max((int(column.max()) for column in (mine, yours) if len(column)), default=0)
        here, there = here * size + mine, there * size + yours
    order = there.argsort(stable=True)
    there = there[order]
    first = torch.searchsorted(there, here)
    counts = torch.searchsorted(there, here, right=True) - first
    which = torch.arange(len(here)).repeat_interleave(counts)
    offset = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
    rows = torch.cat((left.rows[which], right.rows[order[first[which] + offset]][:, new]), 1)
    return Table((*left.labels, *(right.labels[dim] for dim in new)), rows)


def grouped(table: Table, output: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[Group, ...]:
    """The rows of a table by the output that they contribute to.

    Args:
        table: some places.
        output: which of its labels the output has.
        sizes: the size of each of these.

    Returns:
        Groups of outputs with equally many rows; outputs without any are in none.

    Example:
        >>> table = joined(((IndexPattern(2, 2, padding=1), (0, 1, 2)),))
        >>> [(group.keys.tolist(), group.rows.tolist()) for group in grouped(table, (1,), (3,))]
        [([0, 2], [[[1, 0, 0]], [[0, 2, 1]]]), ([1], [[[0, 1, 0], [1, 1, 1]]])]
    """
    keys = torch.zeros(len(table.rows), dtype=torch.int64)
    for label, size in zip(output, sizes, strict=True):
        keys = keys * size + table.rows[:, table.labels.index(label)]
    order = keys.argsort(stable=True)
    rows = table.rows[order]
    different, counts = keys[order].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    groups = []
    for count in counts.unique().tolist():
        chosen = counts == count
        places = starts[chosen][:, None] + torch.arange(count)
        groups.append(Group(different[chosen], rows[places]))
    return tuple(groups)
