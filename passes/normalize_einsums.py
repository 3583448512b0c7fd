"""Write every einsum of a graph in one canonical form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..graphs.nodes import as_contraction, canonical_target, is_einsum
from ..rewrite import Pass, decline


@dataclass(frozen=True)
class NormalizeEinsums(Pass):
    """Write einsums as ``torch.functional.einsum(equation, *operands)``, whatever the style of the call.

    Those over another semiring, with a limit or with index patterns among their operands become
    ``einfx.contract.einsum(equation, *operands, **options)``, without options that say what is so anyway. The
    equation gets an explicit output and letters in the order of their first appearance; ellipses are written
    out where the ranks are known.

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
                decline(node, _why_unread(node))
                continue
            equation, operands, options = contraction
            if not equation.printable_by_torch:
                decline(node, f"torch has letters for 52 labels, and it has {len(equation.labels)}")
                continue
            target, arguments, keywords = (
                canonical_target(options, operands),
                (str(equation), *operands),
                options.keywords(),
            )
            if node.target is not target or node.args != arguments or node.kwargs != keywords:
                node.target, node.args, node.kwargs = target, arguments, keywords
                rewrites += 1
        return rewrites


def _why_unread(node: fx.Node) -> str:
    if node.kwargs.get("return_argmax", False):
        return "it returns an argmax beside its values"
    if node.kwargs.get("optimize", "auto") != "auto":
        return "its caller chose the order of its steps"
    return "its equation can't be read without the ranks of its operands, or isn't valid"
