"""Annealing of contraction trees: counts beside brute force and other libraries, whatever the network."""

from __future__ import annotations

import itertools
import math
import random

import cotengra
import opt_einsum
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from einfx.paths.annealing import Sizes, anneal, rotations_for
from einfx.paths.trees import greedy_tree
from tests.hash_seeds import printed_under_hash_seeds

Path = list[tuple[int, int]]


def network(count: int, seed: int, degree: float = 1.5) -> tuple[list[list[int]], list[int], list[int]]:
    """Labels of each tensor, labels of the output and sizes; hyperedges and open legs are among them."""
    generator = random.Random(seed)
    inputs: list[list[int]] = [[] for _ in range(count)]
    labels = itertools.count()
    for _ in range(max(1, int(degree * count))):
        label = next(labels)
        for i in generator.sample(range(count), min(count, generator.choice((1, 2, 2, 2, 3, 4)))):
            inputs[i].append(label)
    used = sorted({x for part in inputs for x in part})
    output = generator.sample(used, min(len(used), 2))
    return inputs, output, [generator.choice((1, 2, 3, 5, 8)) for _ in range(next(labels))]


def cost(
    inputs: list[list[int]], output: list[int], sizes: list[int], path: Path, written: float = 0.0
) -> float:
    """Multiplications and elements written, counted with sets; what one alone has is summed before."""
    alive = {i: set(part) for i, part in enumerate(inputs)}
    total = 0.0
    for number, (a, b) in enumerate(path, len(inputs)):
        one, other = alive.pop(a), alive.pop(b)
        rest = set(output).union(*alive.values())
        both = {x for x in one | other if x in rest or (x in one and x in other)}
        alive[number] = both & rest
        total += math.prod(sizes[x] for x in both)
        total += written * math.prod(sizes[x] for x in alive[number])
    assert len(alive) == 1
    return total


def masks_of(inputs: list[list[int]], output: list[int]) -> tuple[list[int], int]:
    """Masks without labels that only one tensor has."""
    holders = [x for part in inputs for x in part] + output
    masks = [sum(1 << x for x in part if holders.count(x) > 1) for part in inputs]
    return masks, sum(1 << x for x in output)


def annealed(inputs: list[list[int]], output: list[int], sizes: list[int], written: float = 0.0) -> Path:
    masks, result = masks_of(inputs, output)
    start = greedy_tree(masks, result, Sizes(sizes).__getitem__, 0.0, 0)
    return anneal(masks, result, [start], sizes, rotations_for(masks), [written])[0]


def every_path(alive: tuple[int, ...], number: int) -> list[Path]:
    if len(alive) == 1:
        return [[]]
    found = []
    for a, b in itertools.combinations(alive, 2):
        rest = (*(x for x in alive if x not in (a, b)), number)
        found += [[(a, b), *path] for path in every_path(rest, number + 1)]
    return found


class TestQuality:
    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("count", [3, 4, 5, 6])
    def test_few_operands_get_the_best_of_all_trees(self, count: int, seed: int) -> None:
        inputs, output, sizes = network(count, seed)
        best = min(cost(inputs, output, sizes, path) for path in every_path(tuple(range(count)), count))
        found = cost(inputs, output, sizes, annealed(inputs, output, sizes))
        assert found == best

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("count", [12, 20, 30])
    def test_it_is_within_a_tenth_of_other_libraries(self, count: int, seed: int) -> None:
        made = cotengra.utils.rand_equation(
            count, 3, n_out=2, n_hyper_in=2, n_hyper_out=1, d_min=2, d_max=6, seed=seed
        )
        names = {x: i for i, x in enumerate(made.size_dict)}
        inputs = [[names[x] for x in part] for part in made.inputs]
        output, sizes = [names[x] for x in made.output], list(made.size_dict.values())
        equation = ",".join(map("".join, made.inputs)) + "->" + "".join(made.output)
        theirs = []
        path, _ = opt_einsum.contract_path(equation, *made.shapes, shapes=True, optimize="auto-hq")
        greedy = cotengra.GreedyOptimizer()(made.inputs, made.output, made.size_dict)
        for linear in (path, greedy):
            steps = opt_einsum.paths.linear_to_ssa([tuple(step) for step in linear])
            theirs.append(cost(inputs, output, sizes, [(step[0], step[1]) for step in steps]))
        ours = cost(inputs, output, sizes, annealed(inputs, output, sizes))
        assert ours <= 1.1 * min(theirs)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("written", [1.0, 100.0])
    def test_elements_written_count_as_asked(self, seed: int, written: float) -> None:
        inputs, output, sizes = network(5, seed)
        paths = every_path(tuple(range(5)), 5)
        best = min(cost(inputs, output, sizes, path, written) for path in paths)
        assert cost(inputs, output, sizes, annealed(inputs, output, sizes, written), written) == best


class TestCorrectness:
    @settings(deadline=None, max_examples=40)
    @example(22, 362, 0.2)  # the start is the best there is
    @given(st.integers(2, 24), st.integers(0, 1000), st.sampled_from([0.2, 1.0, 2.0]))
    def test_every_path_contracts_everything_and_is_no_worse_than_its_start(
        self, count: int, seed: int, degree: float
    ) -> None:
        inputs, output, sizes = network(count, seed, degree)
        masks, result = masks_of(inputs, output)
        start = greedy_tree(masks, result, Sizes(sizes).__getitem__, 0.3, seed)
        path = anneal(masks, result, [start], sizes, 2000)[0]
        assert sorted(x for step in path for x in step) == list(range(2 * count - 2))
        before = cost(inputs, output, sizes, start)
        assert cost(inputs, output, sizes, path) <= before

    def test_huge_sizes_stay_within_a_float(self) -> None:
        count = 30
        masks = [1 << i | 1 << (i + 1) % count | 1 << count + i // 3 for i in range(count)]
        sizes = [10**30] * (count + 10)
        start = greedy_tree(masks, 0, Sizes(sizes, unit=500.0).__getitem__, 0.0, 0)
        path = anneal(masks, 0, [start], sizes, 5000)[0]
        assert len(path) == count - 1

    def test_sizes_of_zero_are_no_obstacle(self) -> None:
        assert len(anneal([0b011, 0b110, 0b101], 0, [[(0, 1), (2, 3)]], [0, 2, 3], 500)[0]) == 2

    def test_it_does_not_depend_on_the_hash_seed(self) -> None:
        code = (
            "from tests.paths.test_annealing import annealed, network\n"
            "print([annealed(*network(n, 3)) for n in (9, 18, 30)])"
        )
        assert len(printed_under_hash_seeds(code)) == 1


class TestSizes:
    @settings(deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 2**30 - 1))
    def test_a_mask_has_the_product_of_its_sizes(self, sizes: list[int], mask: int) -> None:
        mask &= (1 << len(sizes)) - 1
        exact = math.prod(size for i, size in enumerate(sizes) if mask >> i & 1)
        assert Sizes(sizes)[mask] == pytest.approx(exact)
        assert Sizes(sizes, unit=2.0)[mask] == pytest.approx(exact / 4)

    def test_what_is_remembered_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("einfx.paths.annealing.MOST_REMEMBERED", 10)
        sizes = Sizes([2] * 10)
        assert [sizes[mask] for mask in range(1000)] == [2.0 ** mask.bit_count() for mask in range(1000)]
        assert len(sizes) <= 11
