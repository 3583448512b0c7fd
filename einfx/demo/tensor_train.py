"""A linear layer factorised as a tensor train."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["TensorTrainLinear"]

INPUTS, OUTPUTS, RANKS = "ijklmn", "uvwxyz", "abcdefg"
"""Labels of the factors of the input features, of the output features, and of the ranks between cores."""


class TensorTrainLinear(nn.Module):
    """Linear layer whose weight matrix is a tensor train, applied one core at a time.

    Input and output features are read as multi-indices; core number n has shape
    ``(rank[n], features_in[n], features_out[n], rank[n + 1])`` (Novikov et al. 2015, "Tensorizing Neural
    Networks", section 4). From left to right is how such layers are usually written, and seldom the cheapest
    order. Each step divides by the square root of the number of terms it sums, for unit variance throughout.

    Args:
        features_in: factors of the number of input features.
        features_out: as many factors of the number of output features.
        ranks: ranks between neighbouring cores, one fewer than cores.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        features_in: Sequence[int],
        features_out: Sequence[int],
        ranks: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.features_in = tuple(features_in)
        self.core_shapes = list(zip((1, *ranks), features_in, features_out, (*ranks, 1), strict=True))
        self.cores = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=generator)) for shape in self.core_shapes
        )
        self.bias = nn.Parameter(torch.zeros(math.prod(features_out)))

    def forward(
        self,
        x: Tensor,  # shape: (batch, product of features_in)
    ) -> Tensor:  # shape: (batch, product of features_out)
        """Apply the layer."""
        count = len(self.features_in)
        ins, outs, ranks = INPUTS[:count], OUTPUTS[:count], RANKS[: count + 1]
        # state: (batch Z, rank, inputs not yet contracted, outputs so far)
        state = x.reshape(-1, 1, *self.features_in)
        for n in range(count):
            state = torch.einsum(
                f"Z{ranks[n]}{ins[n:]}{outs[:n]},{ranks[n]}{ins[n]}{outs[n]}{ranks[n + 1]}"
                f"->Z{ranks[n + 1]}{ins[n + 1 :]}{outs[: n + 1]}",
                state,
                self.cores[n],
            )
            rank, feature_in, *_ = self.core_shapes[n]
            state = state / math.sqrt(rank * feature_in)
        return state.reshape(x.shape[0], -1) + self.bias
