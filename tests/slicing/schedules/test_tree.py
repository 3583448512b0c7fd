"""Trees with loops: whatever is looped, and whatever is computed again in a loop, the numbers stay."""

from __future__ import annotations

import random

import pytest
import torch

from einfx.equation import Equation
from einfx.slicing.running.memory import demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.schedule import Contract, Loop, Statement
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from tests.slicing.networks import network


@pytest.mark.parametrize("seed", range(0, 150, 2))
def test_values_that_are_computed_again_change_no_number(seed: int) -> None:
    text, tree, cuts, operands = network(seed)
    pick = random.Random(seed)
    repeated = [value for value in tree.children if pick.random() < 0.6]
    made = schedule(tree, cuts, repeated)
    (result,) = run(made, operands, demand(made, torch.float64, "cpu"))
    expected = torch.einsum(text, *operands)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)
    back = adjoint(made, [True] * len(operands))
    found = run(back, [*operands, torch.ones_like(expected)], demand(back, torch.float64, "cpu"))
    recorded = [x.clone().requires_grad_() for x in operands]
    wanted = torch.autograd.grad(torch.einsum(text, *recorded).sum(), recorded)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


TRIANGLE = ContractionTree(
    Equation.parse("iu,ju,jv,kv,kw,iw->"), (20, 5, 20, 5, 20, 5), ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
)
"""Three products of matrices over 20 by 20 labels, whose product is summed."""

_I, _J, _K = (TRIANGLE.equation.inputs[x][0] for x in (0, 1, 3))


def _depths(lines: tuple[Statement, ...], value: int, around: int = 0) -> list[int]:
    found = []
    for line in lines:
        if isinstance(line, Loop):
            found += _depths(line.body, value, around + 1)
        elif isinstance(line, Contract) and line.target == value:
            found.append(around)
    return found


def test_what_a_loop_does_not_change_is_computed_before_it() -> None:
    cuts = [Cut(TRIANGLE.root, label, 1) for label in (_I, _J, _K)]
    # The product over j and k waits for i, that over i and j for nobody, that over i and k for j.
    made = schedule(TRIANGLE, cuts)
    assert [_depths(made.statements, value) for value in (6, 7, 8)] == [[2], [0], [1]]


def test_what_is_computed_again_takes_a_block_where_it_took_all() -> None:
    cuts = [Cut(TRIANGLE.root, label, 1) for label in (_I, _J, _K)]
    whole = demand(schedule(TRIANGLE, cuts), torch.float64, "cpu")
    again = demand(schedule(TRIANGLE, cuts, (6, 7, 8)), torch.float64, "cpu")
    assert whole.peak_bytes > 8 * 400 > 100 > again.peak_bytes
    assert again.flops > whole.flops


def test_of_two_values_the_one_that_takes_more_is_computed_first() -> None:
    tree = ContractionTree(
        Equation.parse("ab,b,cd,de,ef->ac"), (4, 3, 4, 50, 60, 2), ((0, 1), (3, 4), (2, 6), (5, 7))
    )
    targets = [line.target for line in schedule(tree).statements if isinstance(line, Contract)]
    assert targets.index(7) < targets.index(5)


def test_paths_may_be_deeper_than_calls() -> None:
    count = 3000
    equation = Equation(tuple((x, x + 1) for x in range(count)), (0, count))
    steps = ((0, 1), *((count + x, x + 2) for x in range(count - 2)))
    tree = ContractionTree(equation, (2,) * (count + 1), steps)
    lines = schedule(tree).statements
    made = [line.target for line in lines if isinstance(line, Contract)]
    assert made == list(range(count, 2 * count - 1))
    # In a loop, before which nothing is computed, and before one which changes only the last.
    for label, before in [(0, 0), (count, count - 2)]:
        looped = schedule(tree, [Cut(tree.root, label, 1)]).statements
        assert sum(isinstance(line, Contract) for line in looped) == before
