"""How far two results are apart, and copies of programs and inputs in float64 to judge them by."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["difference", "in_double", "own_copies", "tolerance"]


Model = TypeVar("Model", bound=nn.Module)


def in_double(model: Model) -> Model:
    """A copy of the model with its floating-point state in float64."""
    return copy.deepcopy(model).double()


def own_copies(inputs: Any, double: bool = False) -> Any:
    """The inputs with every tensor copied, since a program may write to what it is given.

    Args:
        inputs: any nesting of tuples, lists and dictionaries.
        double: convert floating-point tensors to float64 as well.
    """

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().to(
            torch.float64 if double and value.is_floating_point() else value.dtype, copy=True
        )

    return pytree.tree_map(one, inputs)


def difference(results: Any, expected: Any) -> float:
    """The largest difference of two results, relative to the largest entry expected in the same tensor.

    Integers, booleans and what isn't a tensor must be equal; anything else that differs in kind, shape,
    dtype or in where it is not finite counts as infinitely far.

    Example:
        >>> difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
        0.25
        >>> difference((torch.ones(2), 3), (torch.ones(2), 4))
        inf
    """
    leaves, expected_leaves = pytree.tree_leaves(results), pytree.tree_leaves(expected)
    if len(leaves) != len(expected_leaves):
        return float("inf")
    return max((_one_difference(a, b) for a, b in zip(leaves, expected_leaves, strict=True)), default=0.0)


def _one_difference(value: Any, expected: Any) -> float:
    if not isinstance(value, Tensor) or not isinstance(expected, Tensor):
        return 0.0 if type(value) is type(expected) and value == expected else float("inf")
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return float("inf")
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(value, expected) else float("inf")
    value, expected = value.detach(), expected.detach()
    finite = expected.isfinite()
    if not torch.equal(value.isfinite(), finite) or not torch.equal(value.isnan(), expected.isnan()):
        return float("inf")
    infinite = expected.isinf()
    if not torch.equal(value[infinite], expected[infinite]):
        return float("inf")
    if not finite.any():
        return 0.0
    expected = expected[finite]
    scale = expected.abs().max().item()
    return float((value[finite] - expected).abs().max().item() / (scale or 1.0))


def tolerance(expected: Any) -> float:
    """The difference that rounding explains: 1e-12 for float64, in proportion for a coarser output dtype."""
    dtypes = [x.dtype for x in pytree.tree_leaves(expected) if isinstance(x, Tensor)]
    coarsest = max((torch.finfo(d).eps for d in dtypes if d.is_floating_point or d.is_complex), default=0.0)
    return 1e-12 * max(1.0, coarsest / torch.finfo(torch.float64).eps)
