"""Pairs on which torch.einsum is known to be slow, from PyTorch's issues."""

from functools import partial

import torch
from torch import Tensor, nn

from ..row import Program, Row, einsum_program

__all__ = ["ROWS"]


class BroadcastDot(nn.Module):
    """Dot products over three small dimensions of operands that are broadcast against each other."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Broadcast, then contract."""
        a, b = torch.broadcast_tensors(a, b)
        return torch.einsum("...ijk,...ijk->...", a, b)


def broadcast_dot() -> Program:
    """The issue's shapes with 27 in place of 729, for the CPU."""
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 1, 16, 2, 16, 2, 16, 2, 2, 2, 2), (27, 1, 1, 2, 1, 2, 1, 2, 2, 2, 2)
    return BroadcastDot(), tuple(torch.rand(shape, generator=generator).requires_grad_() for shape in shapes)


ROWS = (
    Row(
        "Nc,Nc->N",
        "pytorch #101249, N = 1048576, c = 2",
        partial(einsum_program, "Nc,Nc->N", [(1048576, 2)] * 2),
        target=3.4,
        equation="Nc,Nc->N",
    ),
    Row("...ijk,...ijk->...", "pytorch #32591, operands broadcast, 27 for 729", broadcast_dot, target=4.6),
    Row(
        "ac,abc->cb",
        "pytorch #10661, a = b = 2, with c = 20000 for 2000",
        partial(einsum_program, "ac,abc->cb", [(2, 20000), (2, 2, 20000)]),
        target=9.0,
        equation="ac,abc->cb",
    ),
    Row(
        "ac,abc->cb, small",
        "pytorch #10661, a = b = 2, c = 2000, where calls cost more than arithmetic: by hand 3.5",
        partial(einsum_program, "ac,abc->cb", [(2, 2000), (2, 2, 2000)]),
        target=3.5,
        equation="ac,abc->cb",
    ),
)
