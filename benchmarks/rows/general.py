"""Programs from elsewhere: attention, and the tutorial of opt_einsum_fx."""

import math

import torch
from torch import Tensor, nn

from ..row import Program, Row, einsum_program

__all__ = ["ROWS"]

SEED = 12


class LatentAttention(nn.Module):
    """Attention over a compressed cache, whose up-projections can be folded into the queries and the output.

    Written as the textbook has it: expand keys and values from the cache, then attend (DeepSeek-V2, 2024,
    section 2.1).

    Args:
        width: size d of the model.
        latent: size r of a cache entry.
        heads: number of heads h.
        head_size: size k of a head.
        generator: source of the weights.
    """

    def __init__(
        self, width: int, latent: int, heads: int, head_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.head_size = head_size

        def weight(*shape: int, terms: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(terms))

        self.query = weight(width, heads, head_size, terms=width)
        self.key = weight(latent, heads, head_size, terms=latent)
        self.value = weight(latent, heads, head_size, terms=latent)
        self.out = weight(heads, head_size, width, terms=heads * head_size)

    def forward(
        self,
        x: Tensor,  # shape: (batch b, queries q, width d)
        cache: Tensor,  # shape: (batch b, tokens t, latent r)
    ) -> Tensor:  # shape: (batch b, queries q, width d)
        """Attend from new tokens to the cache."""
        query = torch.einsum("bqd,dhk->bqhk", x, self.query)
        key = torch.einsum("btr,rhk->bthk", cache, self.key)
        value = torch.einsum("btr,rhk->bthk", cache, self.value)
        scores = torch.einsum("bqhk,bthk->bhqt", query, key) / math.sqrt(self.head_size)
        attended = torch.einsum("bhqt,bthk->bqhk", torch.softmax(scores, dim=-1), value)
        return torch.einsum("bqhk,hkd->bqd", attended, self.out)


def attention() -> Program:
    """A chunk of 16 new tokens against 256 cached ones."""
    generator = torch.Generator().manual_seed(SEED)
    model = LatentAttention(width=256, latent=128, heads=8, head_size=64, generator=generator)
    x = torch.randn(4, 16, 256, generator=generator)
    cache = torch.randn(4, 256, 128, generator=generator)
    return model, (x.requires_grad_(), cache.requires_grad_())


def tutorial() -> Program:
    """The sizes that the tutorial times."""
    return einsum_program("zij,zjk,zk->zi", [(1000, 4, 5), (1000, 5, 8), (1000, 8)])


ROWS = (
    Row("attention", "projections foldable into a latent cache; batch 4, 16 queries, 256 tokens", attention),
    Row(
        "opt_einsum_fx tutorial",
        "zij,zjk,zk->zi at its sizes, batch 1000",
        tutorial,
        equation="zij,zjk,zk->zi",
    ),
)
