"""What einsums of einfx return for tensors without data, where running them would tell nothing."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import fx

from ..conv.planning import plan_network
from ..conv.symbolic.network import Network, Operand
from ..conv.symbolic.views import View
from ..pattern import IndexPattern
from .nodes import as_contraction, in_any_order

__all__ = ["over_semiring", "with_patterns"]


def over_semiring(node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
    """Tensors like the results of einfx.einsum with options, whose kernels may look at numbers.

    Args:
        node: any node.
        environment: a tensor for each of its operands.

    Returns:
        None for any other node.
    """
    contraction = in_any_order(node)
    if contraction is None or contraction.options.is_plain:
        return None
    operands = [environment[x] for x in contraction.operands]
    shape = contraction.equation.output_shape([x.shape for x in operands])
    wide, single = [x.dtype for x in operands if x.dim()], [x.dtype for x in operands if not x.dim()]
    kinds = [torch.empty(1, dtype=reduce(torch.promote_types, wide))] if wide else []
    kinds += [torch.empty((), dtype=reduce(torch.promote_types, single))] if single else []
    values = torch.empty(shape, dtype=torch.result_type(kinds[0], kinds[-1]), device=operands[0].device)
    if not node.kwargs.get("return_argmax", False):
        return values
    places = (*shape, len(contraction.equation.summed))
    return values, torch.empty(places, dtype=torch.int64, device=values.device)


def with_patterns(node: fx.Node, environment: dict[fx.Node, Any], device: torch.device) -> Any:
    """A tensor like the result of a contraction with index patterns, laid out as on a device.

    Args:
        node: any node.
        environment: a tensor or a pattern for each of its operands.
        device: where the program runs: the plan for it decides about the layout.

    Returns:
        None for any other node, and for tensors of different dtypes.
    """
    contraction = as_contraction(node)
    if contraction is None or not contraction.has_patterns:
        return None
    given = [environment[x] for x in contraction.operands]
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    if len({x.dtype for x in tensors}) != 1:
        return None
    first: dict[fx.Node, int] = {}
    operands: list[Operand] = [
        x if isinstance(x, IndexPattern) else View(first.setdefault(operand, position), tuple(x.shape))
        for position, (operand, x) in enumerate(zip(contraction.operands, given, strict=True))
    ]
    network = Network(contraction.equation, tuple(operands))
    return plan_network(network, tensors[0].dtype, device).run(given, tensors[0])
