"""The symmetric contraction of MACE, an interatomic potential: products of features by coupling tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .coupling import coupling_tensor

__all__ = ["SymmetricContraction"]

COMPONENTS = "wxvnzrtyuops"
"""Labels of tensor components that are still to be contracted, and of the output's."""


class SymmetricContraction(nn.Module):
    """MACE's product basis: a polynomial of each node's features, equivariant under rotations.

    For every degree of the output, the features ``x`` are contracted with themselves ``correlation`` times
    through coupling tensors ``U`` and weights that depend on the node's chemical element (Batatia et al.,
    "MACE", 2022, eq. 10 and 11). Horner's scheme shares work between the orders: the highest order is
    contracted with one copy of ``x``, the next lower coupling is added, the sum is contracted with the next
    copy, and so on.

    Args:
        channels: number of feature channels c.
        degrees_in: degrees of the features, each of natural parity; their components have total size i.
        degrees_out: degrees of the output, each of natural parity.
        correlation: polynomial order.
        elements: number of chemical elements e.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        degrees_in: Sequence[int] = (0, 1, 2, 3),
        degrees_out: Sequence[int] = (0, 1),
        correlation: int = 3,
        elements: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.degrees_out = tuple(degrees_out)
        self.correlation = correlation
        self.weights = nn.ParameterDict()
        for degree in self.degrees_out:
            for order in range(1, correlation + 1):
                # U: (2*degree + 1, i, ..., i, paths), without its first axis for degree 0
                coupling = coupling_tensor(degrees_in, degree, order).to(torch.get_default_dtype())
                weight = torch.randn(elements, coupling.shape[-1], channels, generator=generator)
                self.register_buffer(f"U_{degree}_{order}", coupling)
                self.weights[f"{degree}_{order}"] = nn.Parameter(weight / coupling.shape[-1])

    def forward(
        self,
        x: Tensor,  # shape: (nodes b, channels c, components i)
        node_attributes: Tensor,  # shape: (nodes b, elements e), one-hot
    ) -> Tensor:  # shape: (nodes b, sum of channels * (2*degree + 1) over the output's degrees)
        """Contract the features of each node with themselves."""
        outputs = [self._contract(degree, x, node_attributes) for degree in self.degrees_out]
        return torch.cat(outputs, dim=-1)

    def _contract(self, degree: int, x: Tensor, node_attributes: Tensor) -> Tensor:
        rank = self.correlation + (degree > 0)
        free = COMPONENTS[: rank - 1]
        out = torch.einsum(
            f"{free}ik,ekc,bci,be->bc{free}",
            self.get_buffer(f"U_{degree}_{self.correlation}"),
            self.weights[f"{degree}_{self.correlation}"],
            x,
            node_attributes,
        )
        for order in range(self.correlation - 1, 0, -1):
            coupling = torch.einsum(
                f"{free}k,ekc,be->bc{free}",
                self.get_buffer(f"U_{degree}_{order}"),
                self.weights[f"{degree}_{order}"],
                node_attributes,
            )
            free = free[:-1]
            out = torch.einsum(f"bc{free}i,bci->bc{free}", coupling + out, x)
        return out.reshape(out.shape[0], -1)
