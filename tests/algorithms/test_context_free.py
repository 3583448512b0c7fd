"""Sums over parses agree with the enumeration of all trees and with CKY in plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.algorithms import best_parse, inside, span_marginals
from einfx.errors import OperandError

Grammar = tuple[Tensor, Tensor, Tensor]
SIZES = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 2), st.integers(0, 999))


def grammar(batch: int, words: int, symbols: int, seed: int = 0) -> Grammar:
    """Random log-probabilities."""
    generator = torch.Generator().manual_seed(seed)

    def scores(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return scores(batch, words, symbols) * 2, scores(symbols, symbols, symbols) * 2, scores(symbols)


def random_lengths(batch: int, words: int, seed: int) -> Tensor:
    return torch.randint(1, words + 1, (batch,), generator=torch.Generator().manual_seed(seed))


def trees(start: int, end: int, symbols: int) -> Iterator[Any]:
    """All trees over the words from start to end."""
    for symbol in range(symbols):
        if start == end:
            yield symbol, start
        for split in range(start, end):
            for left in trees(start, split, symbols):
                for right in trees(split + 1, end, symbols):
                    yield symbol, left, right


def parts(tree: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Its words, rules and spans, each with its index into lexical scores, rules and chart."""
    start, end = span(tree)
    yield "span", (start, end, tree[0])
    if len(tree) == 2:
        yield "word", (tree[1], tree[0])
        return
    yield "rule", (tree[0], tree[1][0], tree[2][0])
    yield from parts(tree[1])
    yield from parts(tree[2])


def span(tree: Any) -> tuple[int, int]:
    return (tree[1], tree[1]) if len(tree) == 2 else (span(tree[1])[0], span(tree[2])[1])


def score(tree: Any, lexical: Tensor, rules: Tensor, root: Tensor) -> Tensor:
    """The product over one tree, as a sum of logarithms."""
    total = root[tree[0]]
    for kind, index in parts(tree):
        if kind != "span":
            total = total + (lexical if kind == "word" else rules)[index]
    return total


def looped(lexical: Tensor, rules: Tensor, root: Tensor) -> float:
    """The probability of one sentence by CKY, one rule at a time."""
    words, symbols = lexical.shape
    table = {(i, i, a): math.exp(lexical[i, a]) for i in range(words) for a in range(symbols)}
    weights = rules.exp().tolist()
    for width in range(2, words + 1):
        for i in range(words - width + 1):
            j = i + width - 1
            for a in range(symbols):
                table[i, j, a] = sum(
                    weights[a][b][c] * table[i, k, b] * table[k + 1, j, c]
                    for k in range(i, j)
                    for b, c in itertools.product(range(symbols), repeat=2)
                )
    return sum(math.exp(root[a]) * table[0, words - 1, a] for a in range(symbols))


@settings(max_examples=40)
@given(SIZES)
def test_sums_marginals_and_the_best_tree_are_those_of_all_trees(sizes: tuple[int, int, int, int]) -> None:
    batch, words, symbols, seed = sizes
    lexical, rules, root = grammar(*sizes)
    lengths = random_lengths(batch, words, seed)
    totals = inside(lexical, rules, root, lengths)
    marginals = span_marginals(lexical, rules, root, lengths)
    best_scores, best_trees = best_parse(lexical, rules, root, lengths)
    for n, length in enumerate(lengths.tolist()):
        every = list(trees(0, length - 1, symbols))
        scores = torch.stack([score(tree, lexical[n], rules, root) for tree in every])
        torch.testing.assert_close(totals[n], scores.logsumexp(0))
        torch.testing.assert_close(best_scores[n], scores.max())
        # Trees of the same rules are equally good.
        assert best_trees[n] in every
        torch.testing.assert_close(score(best_trees[n], lexical[n], rules, root), scores.max())
        expected = torch.zeros(words, words, symbols, dtype=torch.float64)
        for tree, probability in zip(every, scores.softmax(0), strict=True):
            for kind, index in parts(tree):
                if kind == "span":
                    expected[index] += probability
        torch.testing.assert_close(marginals[n], expected)


@pytest.mark.parametrize(("words", "symbols"), [(1, 3), (9, 4), (14, 2)])
def test_longer_sentences_agree_with_plain_loops(words: int, symbols: int) -> None:
    lexical, rules, root = grammar(2, words, symbols)
    totals = inside(lexical, rules, root)
    for n in range(2):
        assert totals[n].item() == pytest.approx(math.log(looped(lexical[n], rules, root)), rel=1e-10)
    single = inside(lexical.float(), rules.float(), root.float())
    torch.testing.assert_close(single.double(), totals, rtol=2e-6, atol=1e-5)


def test_gradients_by_the_rules_count_them() -> None:
    lexical, rules, root = (x.requires_grad_() for x in grammar(3, 6, 4))
    total = inside(lexical, rules, root)
    by_words, by_rules, by_root = torch.autograd.grad(total.sum(), (lexical, rules, root), retain_graph=True)
    torch.testing.assert_close(by_words.sum(2), torch.ones(3, 6).double())
    assert by_rules.sum().item() == pytest.approx(3 * 5)
    assert by_root.sum().item() == pytest.approx(3)
    marginals = span_marginals(lexical, rules, root)
    torch.testing.assert_close(marginals.diagonal(0, 1, 2).mT, by_words)
    assert marginals.sum().item() == pytest.approx(3 * 11)
    below = torch.ones(6, 6).tril(-1).bool()
    assert marginals[:, below].eq(0).all()
    scores, best = best_parse(lexical, rules, root)
    (counts,) = torch.autograd.grad(scores.sum(), rules)
    for tree in best:
        for kind, index in parts(tree):
            if kind == "rule":
                counts[index] -= 1
    assert counts.count_nonzero() == 0


def test_derivatives_of_every_order_are_right() -> None:
    given_grammar = grammar(1, 3, 2)
    for x in given_grammar:
        x.requires_grad_()
    assert torch.autograd.gradcheck(inside, given_grammar)
    assert torch.autograd.gradgradcheck(inside, given_grammar)
    assert torch.autograd.gradcheck(span_marginals, given_grammar)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf])
def test_padding_has_no_influence(padding: float) -> None:
    lexical, rules, root = grammar(3, 5, 3)
    lengths = torch.tensor([1, 5, 3])
    padded = lexical.clone()
    for n, length in enumerate(lengths.tolist()):
        padded[n, length:] = padding
    padded.requires_grad_()
    total = inside(padded, rules, root, lengths)
    torch.testing.assert_close(total, inside(lexical, rules, root, lengths))
    (grad,) = torch.autograd.grad(total.sum(), padded)
    assert grad.isfinite().all()
    marginals = span_marginals(padded, rules, root, lengths)
    torch.testing.assert_close(marginals, span_marginals(lexical, rules, root, lengths))
    assert best_parse(padded, rules, root, lengths)[1] == best_parse(lexical, rules, root, lengths)[1]


def test_sentences_without_a_parse_have_no_tree_and_no_gradient() -> None:
    inf = math.inf
    # S → A B, A → a, B → b
    rules = torch.full((3, 3, 3), -inf)
    rules[0, 1, 2] = 0
    root = torch.tensor([0.0, -inf, -inf])
    a, b = torch.tensor([-inf, 0.0, -inf]), torch.tensor([-inf, -inf, 0.0])
    lexical = torch.stack([torch.stack([a, b]), torch.stack([b, a])]).requires_grad_()
    total = inside(lexical, rules, root)
    assert total.tolist() == [0, -inf]
    (grad,) = torch.autograd.grad(total.sum(), lexical)
    assert grad.tolist() == [[[0, 1, 0], [0, 0, 1]], [[0] * 3] * 2]
    assert best_parse(lexical, rules, root)[1] == [(0, (1, 0), (2, 1)), None]


def test_recognition_and_counting_are_other_semirings() -> None:
    ones = torch.ones(2, 6, 1, dtype=torch.float64), torch.ones(1, 1, 1).double(), torch.ones(1).double()
    assert inside(*ones, torch.tensor([6, 4]), semiring="real").tolist() == [42, 5]
    flags = ones[0].bool(), ones[1].bool(), ones[2].bool()
    assert inside(*flags, semiring="boolean").tolist() == [True, True]
    lexical, rules, root = grammar(2, 5, 3)
    total = inside(lexical.exp(), rules.exp(), root.exp(), semiring="real")
    torch.testing.assert_close(total.log(), inside(lexical, rules, root))


def test_among_equal_trees_one_is_chosen_as_a_whole() -> None:
    zeros = torch.zeros(1, 6, 2), torch.zeros(2, 2, 2), torch.zeros(2)
    score_of_all, found = best_parse(*zeros)
    assert score_of_all.item() == 0
    assert span(found[0]) == (0, 5)
    assert found == best_parse(*zeros)[1]


def test_nothing_is_recorded_for_inputs_without_gradient() -> None:
    given_grammar = grammar(2, 3, 2)
    assert not span_marginals(*given_grammar).requires_grad
    assert not best_parse(*given_grammar)[0].requires_grad
    given_grammar[1].requires_grad_()
    assert span_marginals(*given_grammar).requires_grad
    assert best_parse(*given_grammar)[0].requires_grad
    with torch.no_grad():
        assert not span_marginals(*given_grammar).requires_grad
    assert not given_grammar[0].requires_grad


def test_shapes_that_do_not_fit_are_refused() -> None:
    lexical, rules, root = grammar(2, 3, 2)
    with pytest.raises(OperandError, match=r"log_rules has .* \(N, N, N\) where N is 2, not \(3, 3, 3\)"):
        inside(lexical, torch.zeros(3, 3, 3), root)
    with pytest.raises(OperandError, match=r"log_root has the shape \(N,\), not \(1, 2\)"):
        inside(lexical, rules, root[None])
    with pytest.raises(OperandError, match="lengths are from 1 to 3"):
        inside(lexical, rules, root, torch.tensor([4, 1]))
