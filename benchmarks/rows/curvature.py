"""Curvature of neural networks: Kronecker factors, per-example gradients, Laplace approximations."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..row import Program, Row, einsum_program

__all__ = ["ROWS"]

SEED = 13
CURVLINOPS = "id,bsi,bsj,je->bde"
BACKPACK = "nmi,nki,nmj,nkj->n"
LAPLACE = "mp,nq,pq,mp,nq->mn"


class KroneckerPreconditioner(nn.Module):
    """Natural gradient in the eigenbasis of Kronecker factors, for a network of dense layers.

    The gradient of each layer is rotated, divided by the damped curvature, rotated back and scaled by the
    step size (George et al. 2018, "Fast Approximate Natural Gradient Descent in a Kronecker-factored
    Eigenbasis", section 3).

    Args:
        widths: features of the layers, input first; a constant feature for the bias is added to each input.
        generator: source of the eigenbases.
    """

    def __init__(self, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = len(widths) - 1
        for layer in range(self.layers):
            for name, size in (("in", widths[layer] + 1), ("out", widths[layer + 1])):
                matrix = torch.randn(size, 2 * size, generator=generator)
                values, vectors = torch.linalg.eigh(matrix @ matrix.T / (2 * size))
                self.register_buffer(f"values_{name}_{layer}", values)
                self.register_buffer(f"vectors_{name}_{layer}", vectors)

    def forward(
        self,
        *gradients: Tensor,  # shapes: (outputs m, inputs n) for each layer
    ) -> tuple[Tensor, ...]:  # the same shapes
        """Precondition the gradients of all layers."""
        return tuple(self._layer(layer, gradients[layer]) for layer in range(self.layers))

    def _layer(self, layer: int, gradient: Tensor) -> Tensor:
        outputs, inputs = self.get_buffer(f"vectors_out_{layer}"), self.get_buffer(f"vectors_in_{layer}")
        rotated = torch.einsum("mo,mn,ni->oi", outputs, gradient, inputs)
        values_out, values_in = self.get_buffer(f"values_out_{layer}"), self.get_buffer(f"values_in_{layer}")
        curvature = torch.einsum("o,i->oi", values_out, values_in) + 1e-3
        return -0.1 * torch.einsum("mo,oi,ni->mn", outputs, rotated / curvature, inputs)


class ThreeLayerPreconditioner(KroneckerPreconditioner):
    """The preconditioner with a fixed number of arguments, so that it can be traced."""

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Precondition three gradients."""
        return super().forward(first, second, third)


def kronecker() -> Program:
    """A network for MNIST."""
    generator = torch.Generator().manual_seed(SEED)
    widths = (784, 256, 128, 10)
    model = ThreeLayerPreconditioner(widths, generator)
    shapes = [(out, into + 1) for into, out in pairwise(widths)]
    return model, tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)


ROWS = (
    Row(
        "curvlinops",
        f"{CURVLINOPS}; per-example gradients in an eigenbasis, batch 32, 64 positions, 64x576",
        partial(einsum_program, CURVLINOPS, [(64, 64), (32, 64, 64), (32, 64, 576), (576, 576)]),
        equation=CURVLINOPS,
    ),
    Row(
        "backpack",
        f"{BACKPACK}; squared norms of per-example gradients, batch 32, 64x288 weights, 64 positions",
        partial(einsum_program, BACKPACK, [(32, 64, 64), (32, 288, 64)] * 2),
        equation=BACKPACK,
    ),
    Row(
        "laplace",
        f"{LAPLACE}; diagonal of a Kronecker-factored posterior, layer of 785 to 256",
        partial(einsum_program, LAPLACE, [(256, 256), (785, 785), (256, 785), (256, 256), (785, 785)]),
        equation=LAPLACE,
    ),
    Row("kronecker preconditioner", "eigenbasis of three dense layers, 784-256-128-10", kronecker),
)
