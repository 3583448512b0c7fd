"""A block of a contraction with patterns is one of smaller patterns."""

from __future__ import annotations

import torch

from einfx.conv.contraction import network_of
from einfx.conv.planning.blocks import blocks, copies, narrow, ranges_of
from einfx.pattern import IndexPattern
from tests.conv.planning.test_limits import SAME, tensor


def test_a_block_leaves_out_what_its_patterns_do_not_read() -> None:
    network = network_of("nci,koi,dck->ndo", (tensor(4, 2, 16), SAME, tensor(3, 2, 3)))
    inner = narrow(network, {network.equation.output[2]: (4, 2)})
    assert inner is not None
    assert inner[0].patterns == (IndexPattern(4, 3),)
    assert inner[0].operands[0].shape == (4, 2, 4)
    edge = narrow(network, {network.equation.output[2]: (0, 2)})
    assert edge is not None
    assert edge[0].patterns == (IndexPattern(3, 3, padding=(1, 0)),)
    away = IndexPattern(4, 1, padding=(3, 0))
    nothing = narrow(network_of("i,koi->ko", (tensor(4), away)), {0: (0, 1), 2: (0, 2)})
    assert nothing is None


def test_blocks_cover_every_combination_once() -> None:
    network = network_of("nci,koi->ncko", (tensor(4, 2, 16), SAME))
    n, _, _, o = network.equation.output
    assert ranges_of(5, 2) == [(0, 2), (2, 2), (4, 1)]
    found = list(blocks(network, ((n, 3), (o, 9))))
    assert [(each[n], each[o]) for each in found] == [
        ((0, 3), (0, 9)),
        ((0, 3), (9, 7)),
        ((3, 1), (0, 9)),
        ((3, 1), (9, 7)),
    ]


def test_what_is_cut_behind_its_first_dimension_is_copied() -> None:
    network = network_of("nci,koi,dck->ndo", (tensor(4, 2, 16), SAME, tensor(3, 2, 3)))
    n, d, _ = network.equation.output

    def copied(cut: dict[int, tuple[int, int]], strided: frozenset[int] = frozenset()) -> int:
        narrowed = narrow(network, cut)
        assert narrowed is not None
        return copies(network, *narrowed, torch.float64.itemsize, strided)

    assert copied({n: (0, 1), d: (1, 1)}) == 0
    assert copied({network.equation.output[2]: (4, 2)}) == 8 * 4 * 2 * 4
    assert copied({n: (0, 1)}, frozenset({0})) == 8 * 2 * 16
