"""Dynamic programs as contractions: one equation, and the semiring says what is computed.

Over ``"log"`` they give log-probabilities, whose gradients are posteriors; over ``"max_plus"`` the best
score, whose gradient is the best path or tree; over ``"min_plus"``, ``"max_min"`` and ``"boolean"``
distances, widths and reachability. All take batches and are differentiable.

    >>> import torch
    >>> from einfx.algorithms import reachability
    >>> reachability(torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()).int()
    tensor([[1, 1, 1],
            [0, 1, 1],
            [0, 0, 1]], dtype=torch.int32)
"""

from .context_free import best_parse, inside, span_marginals
from .hidden_markov import forward, linear_chain, posterior_marginals, viterbi
from .shortest_paths import all_pairs_shortest_paths, reachability, widest_paths

__all__ = [
    "all_pairs_shortest_paths",
    "best_parse",
    "forward",
    "inside",
    "linear_chain",
    "posterior_marginals",
    "reachability",
    "span_marginals",
    "viterbi",
    "widest_paths",
]
