"""Peaks and times of whole models under limits, beside the models as they are, without gradients.

Limits are what a model as it is takes, measured from outside, and parts of that. Every model is measured in a
process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import einfx
from einfx.demo.symmetric_contraction import SymmetricContraction
from einfx.demo.tensor_train import TensorTrainLinear
from einfx.errors import MemoryLimitError
from einfx.graph_memory.contraction_bytes import needed_bytes

from ..timing import interleave
from . import alone
from .measure import peak_of

__all__ = ["FRACTIONS", "MODELS", "ModelRun", "contest", "run"]

FRACTIONS = (1, 2, 4)
"""Limits: what the model as it is takes, divided by these."""

Built = tuple[nn.Module, tuple[Tensor, ...]]


class ModelRun(NamedTuple):
    """A model within a limit.

    Attributes:
        model: its name.
        fraction: how much smaller the limit is than what the model takes as it is; 0 for no limit.
        limit: in bytes; without a limit what the model takes as it is.
        peak: as measured from outside, what is returned included; None where the limit is refused.
        slower: the median time over that of the model as it is.
        needed: where it was refused, the limit that the error named; None if it named none.
        planning_seconds: of ``einfx.optimize``.
        error: the largest deviation from the model as it is, relative to its largest entry.
    """

    model: str
    fraction: int
    limit: int
    peak: int | None
    slower: float
    needed: int | None
    planning_seconds: float
    error: float


class Block(nn.Module):
    """A transformer's encoder block: attention and a perceptron, each normalised first and added.

    Args:
        width: of the features.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.joined = nn.Linear(width, width)
        self.widened, self.narrowed = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        x: Tensor,  # shape: (batch, places, width)
    ) -> Tensor:  # shape: (batch, places, width)
        """Apply the block."""
        normal = self.first(x)
        q, k, v = (self._split(part(normal)) for part in (self.queries, self.keys, self.values))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        mixed = torch.einsum("bhqk,bkhd->bqhd", torch.softmax(scores, -1), v)
        x = x + self.joined(mixed.reshape(x.shape))
        result: Tensor = x + self.narrowed(functional.gelu(self.widened(self.second(x))))
        return result

    def _split(self, features: Tensor) -> Tensor:
        return features.reshape(features.shape[0], features.shape[1], self.heads, -1)


class Chain(nn.Module):
    """The forward algorithm of a linear chain with scores: a sum over all paths, over logarithms.

    Args:
        places: how many there are.
        states: how many there are at each place.
        generator: of the scores.
    """

    def __init__(self, places: int, states: int, generator: torch.Generator) -> None:
        super().__init__()
        self.places = places
        self.transitions = nn.Parameter(torch.randn(states, states, generator=generator))

    def forward(
        self,
        emissions: Tensor,  # shape: (places, batch, states)
    ) -> Tensor:  # shape: (batch,)
        """The logarithm of the sum."""
        scores = emissions[0]
        for place in range(1, self.places):
            scores = torch.logsumexp(scores.unsqueeze(2) + self.transitions, dim=1) + emissions[place]
        return torch.logsumexp(scores, dim=1)


class Factor(nn.Module):
    """The second moment of the patches of a convolution's input, as KFAC needs it."""

    def forward(
        self,
        x: Tensor,  # shape: (batch, channels, height, width)
    ) -> Tensor:  # shape: (channels * 9, channels * 9)
        """The factor, over all places."""
        patches = functional.unfold(x.relu(), 3, padding=1)
        return torch.einsum("ncp,ndp->cd", patches, patches) / x.shape[0]


def block(scale: float, generator: torch.Generator) -> Built:
    """A block for 8 texts of 512 places, 256 features and 8 heads."""
    return Block(256, 8), (torch.randn(8, _size(512, scale), 256, generator=generator),)


def symmetric_contraction(scale: float, generator: torch.Generator) -> Built:
    """MACE's symmetric contraction of correlation 3, for 192 nodes."""
    nodes = _size(192, scale)
    elements = torch.randint(10, (nodes,), generator=generator)
    model = SymmetricContraction(channels=64, elements=10, generator=generator)
    x = torch.randn(nodes, 64, 16, generator=generator)
    return model, (x, functional.one_hot(elements, 10).to(x.dtype))


def kfac(scale: float, generator: torch.Generator) -> Built:
    """The factor of a convolution with 32 channels on 32 images of 64 times 64 pixels."""
    return Factor(), (torch.randn(_size(32, scale), 32, 64, 64, generator=generator),)


def chain(scale: float, generator: torch.Generator) -> Built:
    """A chain of 6 places with 384 states, for 128 sequences."""
    return Chain(6, 384, generator), (torch.randn(6, _size(128, scale), 384, generator=generator),)


def tensor_train(scale: float, generator: torch.Generator) -> Built:
    """A tensor-train layer from 512 to 512 features with ranks 16, for 2,048 rows."""
    model = TensorTrainLinear((8, 8, 8), (8, 8, 8), (16, 16), generator=generator)
    return model, (torch.randn(_size(2048, scale), 512, generator=generator),)


MODELS: Mapping[str, Callable[[float, torch.Generator], Built]] = {
    "transformer block": block,
    "symmetric contraction": symmetric_contraction,
    "KFAC factor of a convolution": kfac,
    "linear chain over logarithms": chain,
    "tensor-train layer": tensor_train,
}
"""Each from how large it is, 1 being what is measured, and a source of its numbers."""


def run(scale: float = 1.0, seconds: float = 6.0) -> list[ModelRun]:
    """Measure every model.

    Args:
        scale: how many rows there are, as a part of those that the models say.
        seconds: for the times of one model.
    """
    found = []
    for answer in alone.each(f"{__name__}:contest", [[name, scale, seconds] for name in MODELS]):
        if answer.failure:
            raise RuntimeError(f"the model {answer.argument[0]} failed: {answer.failure}")
        found += [ModelRun(*row) for row in answer.value]
    return found


def contest(argument: Sequence[Any]) -> list[ModelRun]:
    """Measure one model, given its name, its scale and how long."""
    name, scale, seconds = argument
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, inputs = MODELS[name](scale, generator)
    model.eval()
    with torch.no_grad():
        return _measured(name, model, inputs, seconds)


def _measured(name: str, model: nn.Module, inputs: tuple[Tensor, ...], seconds: float) -> list[ModelRun]:
    expected = model(*inputs)
    whole = peak_of(lambda: model(*inputs))
    calls: dict[str, Callable[[], Any]] = {"eager": lambda: model(*inputs)}
    found: list[ModelRun] = []
    for fraction in (0, *FRACTIONS):
        limit = whole // max(fraction, 1)
        start = time.perf_counter()
        try:
            limited = einfx.optimize(
                model,
                inputs,
                passes=einfx.passes.WITH_CONVOLUTIONS,
                memory_limit=limit if fraction else None,
            )
        except MemoryLimitError as error:
            found.append(ModelRun(name, fraction, limit, None, 0.0, needed_bytes(error), 0.0, 0.0))
            continue
        planning = time.perf_counter() - start
        result = limited(*inputs)
        deviation = float((result - expected).abs().max() / expected.abs().max())
        del result
        calls[str(fraction)] = lambda limited=limited: limited(*inputs)  # type: ignore[misc]
        peak = peak_of(calls[str(fraction)])
        found.append(ModelRun(name, fraction, limit, peak, 0.0, None, planning, deviation))
    times = interleave(calls, seconds, min_rounds=3)
    eager = times.time("eager").median
    return [
        row if row.peak is None else row._replace(slower=times.time(str(row.fraction)).median / eager)
        for row in found
    ]


def _size(count: int, scale: float) -> int:
    return max(round(count * scale), 2)
