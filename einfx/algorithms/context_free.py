"""Probabilistic context-free grammars: sums over all parses, the best one, and the probability of each span.

A grammar in Chomsky normal form rewrites a symbol as two (A → B C) or as a word. The inside algorithm (Baker,
"Trainable grammars for speech recognition", 1979) sums the probabilities of all trees over each span, short
spans first:

    inside(i, j, A) = sum over k, B, C of rule(A → B C) · inside(i, k, B) · inside(k + 1, j, C)

which for all spans of one width is one contraction. The semiring says whether it's the inside algorithm, CKY
parsing or recognition (Goodman, "Semiring parsing", 1999), and its gradient replaces the outside algorithm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algebra import Semiring
from ..contract import einsum
from ..semiring import get
from .checks import lengths_of, options_of, require_shapes

__all__ = ["best_parse", "inside", "span_marginals"]


def inside(
    log_lexical: Tensor,
    log_rules: Tensor,
    log_root: Tensor,
    lengths: Tensor | None = None,
    semiring: str | Semiring = "log",
) -> Tensor:
    """The sum over all parses of sentences, by default their log-probability.

    Takes O(T³N² + T²N³) operations in T steps.

    Args:
        log_lexical: (B, T, N), of each word under each symbol (A → word); floating.
        log_rules: (N, N, N), of A → B C at [A, B, C].
        log_root: (N,), of each symbol as the root.
        lengths: (B,) integers from 1 to T; what comes after them is padding, of any value.
        semiring: over which they are scores: logarithms of probabilities for ``"log"`` and ``"max_plus"``,
            probabilities for ``"real"``.

    Returns:
        (B,). Over ``"log"``, -inf for a sentence without a parse; its gradient is 0.

    Raises:
        OperandError: shapes, lengths or numbers that don't fit.

    Example:
        A grammar of one symbol that gives every tree the weight 1 counts them, the Catalan numbers:

        >>> zeros = torch.zeros(5, 6, 1), torch.zeros(1, 1, 1), torch.zeros(1)
        >>> inside(*zeros, lengths=torch.tensor([1, 2, 3, 4, 5])).exp().round()
        tensor([ 1.,  1.,  2.,  5., 14.])
    """
    total, _ = _chart(log_lexical, log_rules, log_root, lengths, semiring)
    return total


def span_marginals(
    log_lexical: Tensor, log_rules: Tensor, log_root: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """The probability that a parse has a symbol over a span, given the sentence.

    The inside-outside algorithm (Lari and Young 1990), as the gradient of the log-probability by the chart.
    Differentiable itself.

    Args:
        log_lexical: (B, T, N), as for :func:`inside`.
        log_rules: (N, N, N).
        log_root: (N,).
        lengths: (B,) integers from 1 to T.

    Returns:
        (B, T, T, N), at [b, i, j, A] for A over the words i to j, both included; 0 where j < i, outside of
        the sentence, and for one without a parse.

    Raises:
        OperandError: shapes, lengths or dtypes that don't fit.

    Example:
        Three words have two trees:

        >>> zeros = torch.zeros(1, 3, 1), torch.zeros(1, 1, 1), torch.zeros(1)
        >>> span_marginals(*zeros)[0, :, :, 0]
        tensor([[1.0000, 0.5000, 1.0000],
                [0.0000, 1.0000, 0.5000],
                [0.0000, 0.0000, 1.0000]])
    """
    again = torch.is_grad_enabled()
    return _with_gradient(log_lexical, log_rules, log_root, lengths, "log", again)[1]


def best_parse(
    log_lexical: Tensor, log_rules: Tensor, log_root: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, list[Any]]:
    """The most probable tree of each sentence, from the gradient of its score.

    Args:
        log_lexical: (B, T, N), as for :func:`inside`.
        log_rules: (N, N, N).
        log_root: (N,).
        lengths: (B,) integers from 1 to T.

    Returns:
        Scores (B,), differentiable, and trees: ``(symbol, place)`` for a word, ``(symbol, left, right)``
        above; None for a sentence without a parse. Among equal trees it's always the same one.

    Raises:
        OperandError: shapes, lengths or dtypes that don't fit.

    Example:
        Symbol 0 joins a 1 and a 0, so it branches to the right:

        >>> rules = torch.full((2, 2, 2), -torch.inf)
        >>> rules[0, 1, 0] = 0
        >>> scores, trees = best_parse(torch.zeros(1, 3, 2), rules, torch.tensor([0.0, -torch.inf]))
        >>> trees[0]
        (0, (1, 0), (0, (1, 1), (0, 2)))
    """
    scores, chosen = _with_gradient(log_lexical, log_rules, log_root, lengths, "max_plus", False)
    ends = lengths_of(lengths, chosen.shape[0], chosen.shape[1], chosen.device).tolist()
    possible = (scores > -torch.inf).tolist()
    trees: list[Any] = []
    for sentence, (end, has_parse) in enumerate(zip(ends, possible, strict=True)):
        symbols = {(i, j): symbol for i, j, symbol in chosen[sentence].nonzero().tolist()}
        trees.append(_tree(symbols, 0, end - 1) if has_parse else None)
    return scores, trees


def _tree(symbols: dict[tuple[int, int], int], start: int, end: int) -> Any:
    """The tree over words ``start`` to ``end`` out of the symbols of all its spans."""
    symbol = symbols[start, end]
    if start == end:
        return symbol, start
    split = next(k for k in range(start, end) if (start, k) in symbols and (k + 1, end) in symbols)
    return symbol, _tree(symbols, start, split), _tree(symbols, split + 1, end)


def _chart(
    lexical: Tensor, rules: Tensor, root: Tensor, lengths: Tensor | None, semiring: str | Semiring
) -> tuple[Tensor, list[Tensor]]:
    """The sums (B,), and those over the spans of each width w: (B, T - w + 1, N)."""
    sizes = require_shapes(log_lexical=(lexical, "B T N"), log_rules=(rules, "N N N"), log_root=(root, "N"))
    batch, words = sizes["B"], sizes["T"]
    lengths = lengths_of(lengths, batch, words, lexical.device)
    within = torch.arange(words, device=lexical.device) < lengths.unsqueeze(1)
    options = options_of(semiring)
    # Padding may be infinite or nan, and even where it isn't used, derivatives of it would be.
    chart = [lexical.where(within.unsqueeze(2), get(semiring).one_of(lexical.dtype))]
    for width in range(2, words + 1):
        spans = words - width + 1
        left = torch.stack([chart[k][:, :spans] for k in range(width - 1)], 2)
        right = torch.stack([chart[width - 2 - k][:, k + 1 : k + 1 + spans] for k in range(width - 1)], 2)
        chart.append(einsum("bikB,bikC,ABC->biA", left, right, rules, **options))
    # Spans from the first word on; that of the whole sentence is summed over its roots.
    prefixes = torch.stack([spans[:, 0] for spans in chart], 1)
    whole = prefixes[torch.arange(batch, device=lexical.device), lengths - 1]
    return einsum("bA,A->b", whole, root, **options), chart


def _with_gradient(
    lexical: Tensor, rules: Tensor, root: Tensor, lengths: Tensor | None, semiring: str, again: bool
) -> tuple[Tensor, Tensor]:
    """The sums and their derivatives by the chart, (B, T, T, N), differentiable if ``again``."""
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (lexical, rules, root))
    with torch.enable_grad():
        leaf = lexical if lexical.requires_grad else lexical.detach().requires_grad_()
        totals, chart = _chart(leaf, rules, root, lengths, semiring)
        grads = torch.autograd.grad(
            totals.sum(), chart, retain_graph=recorded, create_graph=recorded and again
        )
    batch, words, symbols = lexical.shape
    # Width w starts at T - w + 1 places, the diagonals of the matrix of first and last words.
    spans = torch.zeros(batch, symbols, words, words, dtype=grads[0].dtype, device=lexical.device)
    for offset, grad in enumerate(grads):
        spans = spans.diagonal_scatter(grad.transpose(1, 2), offset, 2, 3)
    return (totals if recorded else totals.detach()), spans.permute(0, 2, 3, 1)
