"""Write every einsum of a graph in one canonical form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..nodes import as_contraction, is_einsum
from ..rewrite import Pass, decline


@dataclass(frozen=True)
class NormalizeEinsums(Pass):
    """Write einsums as ``torch.functional.einsum(equation, *operands)``, whatever the style of the call.

    The equation gets an explicit output and letters in the order of their first appearance; ellipses are
    written out where the ranks are known.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> traced = fx.symbolic_trace(lambda x, y: torch.einsum(x, [3, 7], y, [7, 5]))
        >>> NormalizeEinsums().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x, y):
            einsum = torch.functional.einsum('ab,bc->ac', x, y)
            return einsum
    """

    name: ClassVar[str] = "normalize-einsums"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Rewrite the calls in place; one rewrite is one call that changed."""
        rewrites = 0
        for node in graph_module.graph.nodes:
            if not is_einsum(node):
                continue
            contraction = as_contraction(node)
            if contraction is None:
                decline(node, "its equation can't be read without the ranks of its operands, or isn't valid")
                continue
            equation, operands = contraction
            if not equation.printable_by_torch:
                decline(node, f"torch has letters for 52 labels, and it has {len(equation.labels)}")
                continue
            arguments = (str(equation), *operands)
            if node.target is not torch.functional.einsum or node.args != arguments or node.kwargs:
                node.target = torch.functional.einsum
                node.args, node.kwargs = arguments, {}
                rewrites += 1
        return rewrites
