from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx

import einfx
from einfx import IndexPattern
from einfx.torchscript.patterns import patterns_by_torch_functions
from tests.rewriting import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level")

P, Q = IndexPattern(8, 3, 2, (1, 0), 2), IndexPattern(7, 2)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


CASES: dict[str, tuple[Any, ...]] = {
    "ci,koi->cko": (randn(5, 8), P),
    "nci,koi->nco": (randn(2, 5, 8), IndexPattern(8, 3, 1, (-2, 1))),
    "ncij,koi,lpj->nckl": (randn(2, 5, 8, 7), P, Q),
    "nckolp,koi,lpj->ncij": (randn(2, 5, 3, P.output_size, 2, 6), P, Q),
    "ncij,koi,lpj,dckl->ndop": (randn(2, 5, 8, 7), P, Q, randn(4, 5, 3, 2)),
    "ncij,ndop,koi,lpj->dckl": (randn(2, 5, 8, 7), randn(2, 4, P.output_size, 6), P, Q),
    "ni,koi,kpi->op": (randn(2, 8), P, P),
    "ni,koi,mi,lpi->op": (randn(2, 8), P, randn(3, 8), P),
    "n,ooi->ni": (randn(2), IndexPattern(7, 4)),
}


def program(equation: str, operands: tuple[Any, ...]) -> Any:
    """A function of the tensors among the operands."""
    count = sum(isinstance(operand, torch.Tensor) for operand in operands)
    names = iter(f"x{i}" for i in range(count))
    given = [
        next(names) if isinstance(operand, torch.Tensor) else f"operands[{i}]"
        for i, operand in enumerate(operands)
    ]
    arguments = ", ".join(f"x{i}" for i in range(count))
    namespace: dict[str, Any] = {"einfx": einfx, "operands": operands}
    exec(f"def f({arguments}): return einfx.einsum({equation!r}, {', '.join(given)})", namespace)
    return namespace["f"]


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("equation", CASES)
def test_contractions_with_patterns_script_and_give_the_sum_over_zeros_and_ones(
    equation: str, optimised: bool
) -> None:
    operands = CASES[equation]
    tensors = [operand for operand in operands if isinstance(operand, torch.Tensor)]
    function = program(equation, operands)
    module = einfx.optimize(function, tensors) if optimised else fx.symbolic_trace(function)
    scripted = torch.jit.script(einfx.jitable(copy.deepcopy(module)))
    dense = [x.double() if isinstance(x, torch.Tensor) else x.tensor(torch.float64) for x in operands]
    expected = torch.einsum(equation, *dense).float()
    assert_same(scripted(*tensors), expected)
    assert_same(module(*tensors), expected)


def test_the_size_that_a_pattern_was_made_for_is_checked_in_torchscript() -> None:
    module = fx.symbolic_trace(program("nci,koi->nco", CASES["nci,koi->nco"]))
    scripted = torch.jit.script(einfx.jitable(module))
    with pytest.raises(torch.jit.Error, match="must have 8 elements"):
        scripted(randn(2, 5, 9))


def test_a_pattern_made_for_the_size_of_its_input_takes_every_size() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    pattern = graph.call_function(IndexPattern, (graph.call_method("size", (x, 1)),), {"kernel_size": 2})
    graph.output(graph.call_function(einfx.contract.einsum, ("ci,koi->ck", x, pattern)))
    scripted = torch.jit.script(einfx.jitable(fx.GraphModule(torch.nn.Module(), graph)))
    for size in (2, 5, 9):
        assert_same(scripted(torch.ones(3, size)), torch.full((3, 2), size - 1.0))


def test_other_nodes_are_left_alone() -> None:
    graph = fx.symbolic_trace(lambda a, b: torch.einsum("ij,jk->ik", a, b)).graph
    assert not any(patterns_by_torch_functions(node) for node in graph.nodes)
