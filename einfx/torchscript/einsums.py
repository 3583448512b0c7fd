"""Einsums as TorchScript takes them: equations as text, and semirings by functions of torch alone."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..contract import einsum as einfx_einsum
from ..errors import UsageError
from ..graphs.nodes import (
    Contraction,
    as_contraction,
    canonical_target,
    insert_contraction,
    is_einsum,
    value_of,
)
from ..kernels.scriptable import SCRIPTABLE, contract_semiring
from ..options import REAL, Options
from ..planning import plan

__all__ = ["einsum_as_text", "semiring_by_torch_functions"]

_SUBLIST_LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""The letter that torch.einsum gives each number of the sublist form; it orders an implicit output."""


def einsum_as_text(node: fx.Node) -> bool:
    """Rewrite ``einsum(a, (0, 1), b, (1, ...))`` as ``einsum('AB,B...', a, b)``; False for any other node.

    Example:
        >>> graph = fx.symbolic_trace(lambda a, b: torch.einsum(a, (0, 1), b, (1, ...))).graph
        >>> [einsum_as_text(node) for node in graph.nodes], list(graph.nodes)[2].args[0]
        ([False, False, True, False], 'AB,B...')
    """
    if not _calls(node, torch.functional.einsum) or not node.args or isinstance(node.args[0], str):
        return False
    operands, sublists = list(node.args[0::2]), list(node.args[1::2])
    output = operands.pop() if len(node.args) % 2 else None
    try:
        text = ",".join(map(_letters, sublists))
        if output is not None:
            text += f"->{_letters(output)}"
    except (IndexError, TypeError):
        return False
    node.args = (text, *operands)
    return True


def _letters(sublist: Any) -> str:
    return "".join("..." if label is Ellipsis else _SUBLIST_LETTERS[label] for label in sublist)


_TORCH_EINSUMS = (torch.functional.einsum, torch.ops.aten.einsum, torch.ops.aten.einsum.default)


def semiring_by_torch_functions(node: fx.Node) -> bool:
    """Rewrite einfx.einsum as torch.einsum or as ``contract_semiring``; False for any other node.

    Raises:
        UsageError: TorchScript has no function for what it does.

    Example:
        >>> graph = fx.symbolic_trace(lambda a, b: einfx_einsum("ij,jk", a, b, semiring="log")).graph
        >>> [semiring_by_torch_functions(node) for node in graph.nodes], list(graph.nodes)[2].args
        ([False, False, True, False], ('ab,bc->ac', [a, b], 'log', [], False, 'nan'))
    """
    if not is_einsum(node) or node.target in _TORCH_EINSUMS:
        return False
    contraction = as_contraction(node)
    if contraction is None:
        if node.target is einfx_einsum and node.kwargs.keys() <= {"optimize"}:
            return False
        raise UsageError(
            f"jitable: {node.format_node()} can't be written for TorchScript, which has no argmax of sums, "
            "takes no order of steps, and needs an equation without an ellipsis (or optimize the program for "
            "example inputs first)"
        )
    equation, operands, options = contraction
    if options == REAL:
        node.target, node.args, node.kwargs = canonical_target(REAL), (str(equation), *operands), {}
        return True
    _check_scriptable(node, options)
    if len(operands) > 2 and _split(node, contraction):
        return semiring_by_torch_functions(node)
    name, linear = options.semiring.name, list(options.linear_operands)
    annihilates = options.semiring.zero_annihilates
    arguments = name, linear, annihilates, options.grad_of_neg_inf
    node.target, node.args, node.kwargs = contract_semiring, (str(equation), list(operands), *arguments), {}
    return True


def _split(node: fx.Node, contraction: Contraction) -> bool:
    """Write the steps of a plan before ``node``, which becomes the last one; False without shapes."""
    equation, operands, options = contraction
    known = [value for x in operands if (value := value_of(x)) is not None]
    if len(known) < len(operands):
        return False
    shapes = [value.shape for value in known]
    chosen = plan(equation, shapes, dtype=known[0].dtype, device=known[0].device, options=options)
    if len(chosen.steps) < 2:
        return False
    values = list(operands)
    for step in chosen.steps:
        own = chosen.step_options(step)
        taken = [values[x] for x in step.operands]
        if step is chosen.steps[-1]:
            node.target, node.args = canonical_target(own), (str(step.equation), *taken)
            node.kwargs = own.keywords()
            break
        with node.graph.inserting_before(node):
            values.append(insert_contraction(node.graph, step.equation, taken, own))
        semiring_by_torch_functions(values[-1])
    return True


def _check_scriptable(node: fx.Node, options: Options) -> None:
    name, gradient = options.semiring.name, options.grad_of_neg_inf
    if options.is_limited:
        reason = "block_size and memory_limit aren't kept in TorchScript; leave them out"
    elif name not in SCRIPTABLE:
        reason = f"there are TorchScript functions for {', '.join(sorted(SCRIPTABLE))}, but none for {name!r}"
    elif gradient not in ("nan", "uniform") and not 0 <= float(gradient) < math.inf:
        reason = f"in TorchScript grad_of_neg_inf is nan, 'uniform' or a number from 0 up, not {gradient}"
    else:
        return
    raise UsageError(f"jitable: {node.format_node()} can't be written for TorchScript: {reason}")


def _calls(node: fx.Node, function: Callable[..., Any]) -> bool:
    return node.op == "call_function" and node.target is function
