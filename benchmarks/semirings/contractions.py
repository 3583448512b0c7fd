"""Rows of contractions that are more than a matrix product, beside what their users take for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import einfx
from einfx.kernels import log

from ..contests.row import OURS, AtLeast, Call, Contest, Row, Smaller, with_gradients
from .operands import scores
from .oracle import exact, exact_gradients
from .peers import CIRKIT, SEMIRING_EINSUM, cirkit_tucker, semiring_einsum

__all__ = ["CONTRACTIONS"]

BY_HAND = "matrix products by hand"
BROADCAST = "broadcast"
TORCH = "torch.einsum"
LOGSUMEXP = "torch.logsumexp"

CHAIN = "ab,bc,cd,de->ae"
ROWS = "ak,ak,ak->a"
RULES = "zabc,znwb,znwc->zna"
TUCKER = "fbi,fbj,foij->fbo"


def _peer(equation: str, semiring: str, given: tuple[Tensor, ...], gradients: bool = False) -> Call | None:
    compute = semiring_einsum(equation, semiring)
    if compute is None:
        return None
    return with_gradients(compute, given) if gradients else lambda: compute(*given)


def _chain(n: int) -> Contest:
    given = tuple(scores(n, n, seed=seed) for seed in range(4))

    def by_hand() -> Tensor:
        first, *rest = (matrix[None] for matrix in given)
        for matrix in rest:
            first = log.matmul(first, matrix)
        return first[0]

    calls: dict[str, Call | None] = {
        OURS: lambda: einfx.einsum(CHAIN, *given, semiring="log"),
        BY_HAND: by_hand,
        SEMIRING_EINSUM: _peer(CHAIN, "log", given),
    }
    return Contest(calls, exact(CHAIN, "log", *given), {TORCH: lambda: torch.einsum(CHAIN, *given)})


def _rows(terms: int, semiring: str) -> Contest:
    given = tuple(scores(8, terms, seed=seed) for seed in range(3))
    calls: dict[str, Call | None] = {
        OURS: lambda: einfx.einsum(ROWS, *given, semiring=semiring),
        SEMIRING_EINSUM: _peer(ROWS, semiring, given),
    }
    if semiring == "real":
        calls[TORCH] = lambda: torch.einsum(ROWS, *given)
    else:
        calls[LOGSUMEXP] = lambda: torch.logsumexp(given[0] + given[1] + given[2], 1)
    return Contest(calls, exact(ROWS, semiring, *given), {})


def _rules(symbols: int, gradients: bool) -> Contest:
    """Rules (sentence, a, b, c) with left and right parts of spans (sentence, position, split, symbol)."""
    parts = 4, 16, 8, symbols
    given = scores(4, max(2, symbols // 2), symbols, symbols), scores(*parts, seed=1), scores(*parts, seed=2)

    def ours(*given: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(RULES, *given, semiring="log")
        return result

    def broadcast(rules: Tensor, left: Tensor, right: Tensor) -> Tensor:
        pairs = left[..., None] + right[..., None, :]
        return torch.logsumexp(rules[:, None, :, None] + pairs[:, :, None], (3, 4, 5))

    def run(compute: Callable[..., Tensor]) -> Call:
        return with_gradients(compute, given) if gradients else lambda: compute(*given)

    calls: dict[str, Call | None] = {
        OURS: run(ours),
        BROADCAST: run(broadcast),
        SEMIRING_EINSUM: _peer(RULES, "log", given, gradients),
    }
    limits = {TORCH: run(partial(torch.einsum, RULES))}
    return Contest(calls, (exact_gradients if gradients else exact)(RULES, "log", *given), limits)


def _tucker(units: int, gradients: bool) -> Contest:
    """A layer of 4 * units folds on a batch of 8 * units, whose weights are probabilities."""
    folds, batch = 4 * units, 8 * units
    inputs = scores(folds, 2, batch, units) - 5
    x, y = inputs.unbind(1)
    weight = torch.softmax(scores(folds, units, units * units, seed=1), 2).unflatten(2, (units, units))

    def ours(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(TUCKER, x, y, weight, semiring="log", linear_operands=(2,))
        return result

    def exactly(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        pairs = x[:, :, None, :, None] + y[:, :, None, None, :]
        return torch.logsumexp(pairs + weight.log()[:, None], (3, 4))

    def with_inputs(compute: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda inputs, weight: compute(inputs[:, 0], inputs[:, 1], weight)

    layer = cirkit_tucker(weight)
    peer: Call | None = None
    if layer is not None:
        peer = partial(layer, inputs)
        if gradients:
            peer = _gradients_of_layer(layer, inputs, weight)
    if gradients:
        doubles = inputs.double(), weight.double()
        calls = {OURS: with_gradients(with_inputs(ours), (inputs, weight)), CIRKIT: peer}
        real = with_gradients(with_inputs(partial(torch.einsum, TUCKER)), (inputs, weight))
        return Contest(calls, lambda: with_gradients(with_inputs(exactly), doubles)(), {TORCH: real})
    calls = {OURS: lambda: ours(x, y, weight), CIRKIT: peer}
    limits: dict[str, Call | None] = {TORCH: lambda: torch.einsum(TUCKER, x, y, weight)}
    return Contest(calls, lambda: exactly(x.double(), y.double(), weight.double()), limits)


def _gradients_of_layer(layer: Callable[[Tensor], Tensor], inputs: Tensor, weight: Tensor) -> Call:
    """Gradients of the inputs and of the layer's own weights, in the shape of the weights given."""
    (own,) = layer.parameters()  # type: ignore[attr-defined]

    call = with_gradients(lambda inputs, _: layer(inputs), (inputs, own))

    def gradients() -> object:
        of_inputs, of_weight = call()
        return of_inputs, of_weight.view_as(weight)

    return gradients


_BOTH = ", forward and backward"
_RULES = (
    "rules with parts of spans, as genbmm, whose kernels are for CUDA alone, is used: 4 sentences, 16 spans, "
    "8 splits, 16x32x32 rules"
)
_TUCKER = "Tucker layer of a probabilistic circuit, 64 folds, 128 examples, 16 units; weights linear"

CONTRACTIONS = (
    Row(
        f"log {CHAIN}",
        "four 40x40 matrices",
        _chain,
        40,
        5,
        (AtLeast(0.5, BY_HAND),),
        slow=frozenset({SEMIRING_EINSUM}),
    ),
    *(
        Row(
            f"{semiring} {ROWS}",
            "8 rows of a million terms each, three operands",
            partial(_rows, semiring=semiring),
            1_000_000,
            50,
            tuple(
                target
                for other in (naive, SEMIRING_EINSUM)
                for target in (AtLeast(1.0, other), Smaller(other))
            ),
            memory=True,
        )
        for semiring, naive in (("real", TORCH), ("log", LOGSUMEXP))
    ),
    *(
        Row(
            f"log {RULES}" + ", gradients" * gradients,
            _RULES + _BOTH * gradients,
            partial(_rules, gradients=gradients),
            32,
            3,
            slow=frozenset({SEMIRING_EINSUM, BROADCAST}),
            memory=True,
        )
        for gradients in (False, True)
    ),
    *(
        Row(
            f"log {TUCKER}" + ", gradients" * gradients,
            _TUCKER + _BOTH * gradients,
            partial(_tucker, gradients=gradients),
            16,
            2,
            memory=True,
        )
        for gradients in (False, True)
    ),
)
