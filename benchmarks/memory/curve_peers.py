"""Others that contract what the curves show: without a limit, and in cotengra's slices."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import Tensor

__all__ = ["PEERS", "Peer"]

NETWORK = 5
"""Operands from which on the path matters: others are asked for their better and slower searches too."""

REPEATS = 32
PARTS = (4, 16, 64)
"""Target sizes of cotengra's slices: the largest intermediate of its tree, divided by these."""


class Peer(NamedTuple):
    """A contender.

    Attributes:
        prepare: plans for an equation and operands, and returns what contracts them.
        least: the fewest operands for which it is asked.
        needs: a module that must be installed.
    """

    prepare: Callable[[str, Sequence[Tensor]], Callable[[], Tensor]]
    least: int
    needs: str

    def suits(self, equation: str) -> bool:
        """Whether to ask it for an equation here."""
        return equation.count(",") + 1 >= self.least and importlib.util.find_spec(self.needs) is not None


def _torch(equation: str, operands: Sequence[Tensor]) -> Callable[[], Tensor]:
    """It finds its path, opt_einsum's, in every call."""
    return lambda: torch.einsum(equation, *operands)


def _opt_einsum(optimize: str, equation: str, operands: Sequence[Tensor]) -> Callable[[], Tensor]:
    contract: Any = opt_einsum.contract_expression(equation, *(x.shape for x in operands), optimize=optimize)
    return lambda: contract(*operands)


def _cotengra(part: int | None, equation: str, operands: Sequence[Tensor]) -> Callable[[], Tensor]:
    """A tree of cotengra's search, in slices that it finds while it improves the tree for them."""
    import cotengra

    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    sizes = {
        label: size
        for term, tensor in zip(terms, operands, strict=True)
        for label, size in zip(term, tensor.shape, strict=True)
    }
    # Slicing draws from the source of all random numbers.
    random.seed(0)
    optimizer = cotengra.HyperOptimizer(
        optlib="random", max_repeats=REPEATS, seed=0, parallel=False, progbar=False
    )
    tree = optimizer.search(terms, output, sizes)
    if part is not None:
        tree = tree.slice_and_reconfigure(target_size=int(tree.max_size()) // part)
    return lambda: tree.contract(operands)


PEERS: Mapping[str, Peer] = {
    "torch.einsum": Peer(_torch, 1, "torch"),
    "opt_einsum": Peer(partial(_opt_einsum, "auto"), 1, "opt_einsum"),
    "opt_einsum (dp)": Peer(partial(_opt_einsum, "dp"), NETWORK, "opt_einsum"),
    "cotengra": Peer(partial(_cotengra, None), NETWORK, "cotengra"),
    **{
        f"cotengra, sliced to 1/{part}": Peer(partial(_cotengra, part), NETWORK, "cotengra") for part in PARTS
    },
}
"""By name, in the order of the table."""
