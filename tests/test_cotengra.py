"""cotengra computes its trees by einfx's einsum and tensordot, and einfx takes its trees and optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import einfx

cotengra = pytest.importorskip("cotengra")

HOOKS = (einfx.einsum, einfx.tensordot)

NETWORKS: dict[str, tuple[int, dict[str, int]]] = {
    "few": (8, {}),
    "open": (12, {"n_out": 2}),
    "hyperedges": (12, {"n_hyper_in": 2, "n_hyper_out": 1, "n_out": 1}),
    "more labels than letters": (40, {"d_max": 2}),
}


@pytest.fixture(autouse=True)
def no_advice() -> Iterator[None]:
    """Warnings of cotengra name each package that would make it faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network(name: str) -> tuple[str, list[Tensor], Any]:
    """An equation, its operands and a tree for it."""
    count, words = NETWORKS[name]
    made = cotengra.utils.rand_equation(count, 3, seed=count, **words)
    generator = torch.Generator().manual_seed(count)
    operands = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in made.shapes]
    tree = cotengra.array_contract_tree(made.inputs, made.output, made.size_dict, optimize="greedy")
    return cotengra.utils.inputs_output_to_eq(made.inputs, made.output), operands, tree


def number(found: Any) -> Tensor:
    """What a result stands for, its exponent apart or not."""
    if isinstance(found, tuple):
        found = found[0] * 10 ** found[1]
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("words", [{}, {"strip_exponent": True}, {"prefer_einsum": True}])
@pytest.mark.parametrize("slices", [1, 4])
def test_trees_are_computed_by_einfx(name: str, words: dict[str, Any], slices: int) -> None:
    _, operands, tree = network(name)
    expected = tree.contract(operands)
    tree = tree.slice(target_slices=slices) if slices > 1 else tree
    found = tree.contract(operands, implementation=HOOKS, **words)
    torch.testing.assert_close(number(found), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_cotengras_einsum_is_computed_by_einfx(name: str) -> None:
    equation, operands, tree = network(name)
    found = cotengra.einsum(equation, *operands, implementation=HOOKS)
    torch.testing.assert_close(found, tree.contract(operands))


def test_gradients_go_through_cotengras_trees() -> None:
    _, operands, tree = network("hyperedges")
    operands = [x.requires_grad_() for x in operands]
    expected = torch.autograd.grad(tree.contract(operands).sum(), operands)
    found = torch.autograd.grad(tree.contract(operands, implementation=HOOKS).sum(), operands)
    torch.testing.assert_close(found, expected)


CHOICES: dict[str, Callable[[Any], Any]] = {
    "a tree": lambda tree: tree,
    "a sliced tree": lambda tree: tree.slice(target_slices=4),
    "an optimizer": lambda tree: cotengra.GreedyOptimizer(),
    "one that repeats": lambda tree: cotengra.HyperOptimizer(max_repeats=4, parallel=False),
    "one that chooses": lambda tree: cotengra.AutoOptimizer(cache=False),
    "a name": lambda tree: "cotengra",
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("words", [{}, {"strip_exponent": True}, {"memory_limit": "64 KiB"}])
def test_einfx_takes_the_path_from_what_cotengra_found(choice: str, words: dict[str, Any]) -> None:
    equation, operands, tree = network("hyperedges")
    expected = tree.contract(operands)
    found = einfx.einsum(equation, *operands, optimize=CHOICES[choice](tree), **words)
    torch.testing.assert_close(number(found), expected)


def test_quimb_contracts_by_einfx() -> None:
    quimb = pytest.importorskip("quimb.tensor")
    for made in (
        quimb.TN_rand_reg(12, 3, D=2, seed=1, dtype="complex128"),
        quimb.TN2D_classical_ising_partition_function(4, 4, beta=0.44),
        quimb.HTN2D_classical_ising_partition_function(4, 4, beta=0.44),
    ):
        expected = made.contract(all, output_inds=())
        made.apply_to_arrays(torch.tensor)
        for words in ({}, {"strip_exponent": True}):
            found = made.contract(all, output_inds=(), implementation=HOOKS, **words)
            assert number(found).item() == pytest.approx(complex(expected))
