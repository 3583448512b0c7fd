"""The benchmark of paths of larger networks: its networks, its count, its table."""

from __future__ import annotations

import math

import opt_einsum
import pytest

from benchmarks import networks
from benchmarks.networks import Network, PathQuality, multiplications


@pytest.mark.parametrize("count", [5, 10, 20])
def test_regular_networks_have_equal_degrees_and_no_open_legs(count: int) -> None:
    network = networks.regular(count, 0)
    assert len({len(part) for part in network.inputs}) == 1
    labels = [x for part in network.inputs for x in part]
    assert all(labels.count(x) == 2 for x in labels)
    assert network == networks.regular(count, 0)
    assert network != networks.regular(count, 1)


def test_hyper_networks_have_hyperedges() -> None:
    network = networks.hyper(20, 0)
    labels = [x for part in network.inputs for x in part]
    assert max(labels.count(x) for x in labels) > 2
    assert len(network.output) == 3


def test_multiplications_of_a_chain_are_those_of_its_products() -> None:
    network = Network([("i", "j"), ("j", "k"), ("k", "l")], ("i", "l"), {"i": 2, "j": 3, "k": 5, "l": 7})
    assert multiplications(network, [(0, 1), (0, 1)]) == 2 * 3 * 5 + 2 * 5 * 7
    assert multiplications(network, [(1, 2), (0, 1)]) == 3 * 5 * 7 + 2 * 3 * 7
    assert multiplications(network, [(0, 1, 2)]) == 2 * 3 * 5 + 2 * 5 * 7


def test_what_one_operand_alone_has_takes_no_multiplications() -> None:
    network = Network([("i", "x"), ("i",)], ("i",), {"i": 2, "x": 100})
    assert multiplications(network, [(0, 1)]) == 2


@pytest.mark.parametrize("seed", range(4))
def test_multiplications_are_those_of_opt_einsum(seed: int) -> None:
    network = networks.regular(10, seed)
    path, info = opt_einsum.contract_path(network.equation, *network.shapes, shapes=True, optimize="greedy")
    expected = 0
    for contraction in info.contraction_list:
        expected += math.prod(network.sizes[x] for x in set(contraction[2]) - set(",->"))
    assert multiplications(network, path) == expected


def test_a_small_run_measures_every_contestant() -> None:
    results = networks.run(operands=(5,), seeds=1, hyper_seconds=0.2, progress=lambda text: None)
    assert [one.kind for one in results] == ["regular", "hyper"]
    for one in results:
        assert one.multiplications["einfx multiplications"][0] <= 1.0 + 1e-9
        assert (
            min(counts[0] for name, counts in one.multiplications.items() if name not in networks.OURS) == 1
        )
    lines = networks.section(results).splitlines()
    assert lines[-1].startswith("| hyper, 5 |")


def test_too_many_multiplications_or_too_much_time_miss_the_target() -> None:
    def quality(count: float, seconds: float, predicted: float = 1.0) -> PathQuality:
        found = {name: [count] for name in networks.OURS} | {"auto-hq": [1.0]}
        times = {name: [seconds] for name in networks.OURS} | {"auto-hq": [0.2]}
        return PathQuality("regular", 20, found, times, {name: [predicted] for name in found})

    for name in networks.OURS:
        assert not quality(1.05, 0.1).misses_target(name)
        assert quality(1.2, 0.1).misses_target(name)
        assert quality(1.05, 0.3).misses_target(name)
    assert not quality(1.2, 0.1, 0.9).misses_target("einfx")
    assert quality(1.2, 0.1, 0.9).misses_target("einfx multiplications")


def test_predictions_are_multiples_of_that_of_the_fewest_multiplications() -> None:
    (one, _) = networks.run(operands=(5,), seeds=2, hyper_seconds=0.1, progress=lambda text: None)
    for i in range(2):
        fewest = min(
            one.multiplications, key=lambda name: (one.multiplications[name][i], one.predicted[name][i])
        )
        assert one.predicted[fewest][i] == 1.0
