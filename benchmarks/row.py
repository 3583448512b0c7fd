"""What one row of the benchmark is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

__all__ = ["Program", "Row", "einsum_module", "einsum_program"]

Program = tuple[nn.Module, tuple[Tensor, ...]]
"""A model and its example inputs; inputs that require gradients take part in the backward pass."""


@dataclass(frozen=True)
class Row:
    """One program to be timed.

    Attributes:
        name: what it is called on the command line and in the results.
        note: where it comes from and its sizes.
        build: makes the program, the same every time.
        target: least speed over eager that was reached by hand; None for rows that count in the mean.
        equation: the einsum that is the whole program, where the program is one; a direct call is timed too.
    """

    name: str
    note: str
    build: Callable[[], Program]
    target: float | None = None
    equation: str | None = None


def einsum_module(equation: str, count: int) -> nn.Module:
    """A module that contracts ``count`` operands, its only inputs."""
    graph = fx.Graph()
    operands = [graph.placeholder(f"operand_{position}") for position in range(count)]
    graph.output(graph.call_function(torch.functional.einsum, (equation, *operands)))
    return fx.GraphModule(nn.Module(), graph, "Einsum")


def einsum_program(equation: str, shapes: Sequence[Sequence[int]]) -> Program:
    """One einsum of random operands that all require gradients."""
    generator = torch.Generator().manual_seed(0)
    operands = tuple(torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes)
    return einsum_module(equation, len(shapes)), operands
