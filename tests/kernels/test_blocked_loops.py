"""The loops over blocks: ranges fit what they may take, and blocks cover everything once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from einfx.equation import Equation
from einfx.kernels.blocked import contract
from einfx.kernels.blocked_loops import Limits, Subscripts, blocks_of, digits, ranges_within
from tests.kernels.memory import peak_bytes

SIZES = st.dictionaries(st.integers(0, 30), st.integers(1, 5000), max_size=5)


@given(
    sizes=SIZES,
    many=st.integers(0, 5),
    block_size=st.none() | st.integers(1, 300),
    budget=st.integers(1, 10**7),
    costs=st.tuples(st.integers(0, 30), st.integers(0, 60)),
    most=st.integers(1, 10**6),
)
def test_ranges_fit_the_budget_and_the_cache(
    sizes: dict[int, int],
    many: int,
    block_size: int | None,
    budget: int,
    costs: tuple[int, int],
    most: int,
) -> None:
    order = tuple(sizes)
    summed = order[:many]
    ranges = ranges_within(order, sizes, summed, Limits(block_size, budget), costs, most)
    assert all(1 <= ranges[x] <= sizes[x] for x in order)
    assert block_size is None or all(ranges[x] <= block_size for x in summed)
    terms = math.prod(ranges.values())
    outputs = terms // math.prod(ranges[x] for x in summed)
    assert terms == 1 or (terms <= most and costs[0] * terms + costs[1] * outputs <= budget)


@given(sizes=st.dictionaries(st.integers(0, 9), st.integers(1, 7), max_size=3), data=st.data())
def test_blocks_cover_every_place_once_and_in_order(sizes: dict[int, int], data: st.DataObject) -> None:
    ranges = {x: data.draw(st.integers(1, n)) for x, n in sizes.items()}
    labels = tuple(sizes)
    seen = torch.zeros(tuple(sizes.values()))
    starts = []
    for block in blocks_of(labels, ranges, sizes):
        assert all(1 <= length <= ranges[x] for x, (_, length) in block.items())
        seen[tuple(slice(*(a, a + n)) for a, n in block.values())] += 1
        starts.append([start for start, _ in block.values()])
    assert (seen == 1).all()
    assert starts == sorted(starts)


labels = st.lists(st.integers(0, 2000), max_size=4).map(tuple)


@given(inputs=st.lists(labels, min_size=1, max_size=4).map(tuple), output=labels, summed=labels)
def test_subscripts_come_back_from_their_text(
    inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], summed: tuple[int, ...]
) -> None:
    subscripts = Subscripts(inputs, output, summed)
    assert Subscripts.from_text(subscripts.as_text()) == subscripts


@given(st.integers(0, 1 << 70))
def test_digits_are_those_of_the_number(number: int) -> None:
    assert digits(number) == str(number)


@pytest.mark.parametrize("name", ["real", "log", "max_plus"])
def test_a_long_reduction_of_products_takes_less_than_one_of_its_operands(name: str) -> None:
    x = torch.rand(8, 100_000 * torch.get_num_threads())
    x = torch.cat((x, x), 1)
    equation = Equation.parse("ak,ak,ak->a")
    assert peak_bytes(lambda: contract(equation, (x, x, x), name)) < x.numel() * x.itemsize / 2


@pytest.mark.parametrize("name", ["real", "log", "max_plus"])
@pytest.mark.parametrize("text", ["ka->a", "ak->a", "abk->ba", "kab->ab", "akb->b"])
def test_any_layout_is_added_up_in_blocks_as_in_torch(name: str, text: str) -> None:
    equation = Equation.parse(text)
    sizes = {0: 40, 1: 50, 2: 60} if len(equation.inputs[0]) == 3 else {0: 3000, 1: 70}
    x = torch.rand([sizes[label] for label in equation.inputs[0]])
    moved = x.permute([equation.inputs[0].index(x) for x in (*equation.output, *equation.summed)])
    flat = moved.flatten(len(equation.output))
    expected = {"real": flat.sum(-1), "log": flat.logsumexp(-1), "max_plus": flat.amax(-1)}[name]
    for budget in (2000, 1 << 17, 1 << 30):
        assert torch.allclose(contract(equation, (x,), name, budget_bytes=budget), expected, rtol=1e-5)
