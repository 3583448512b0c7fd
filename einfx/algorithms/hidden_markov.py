"""Hidden Markov models and linear chains: sums over all paths, the best path, posteriors of states.

With hidden states z and observations x of one sequence, the forward algorithm sums the probabilities of all
paths (Rabiner, "A tutorial on hidden Markov models", 1989, section III):

    P(x) = sum over z of P(z_0) P(x_0 | z_0) · product over t of P(z_t | z_t-1) P(x_t | z_t)

It is a chain of contractions, so over the max-plus semiring the same code is the Viterbi algorithm, and
gradients do what otherwise takes a second program: those of the log-likelihood are the posteriors (Eisner,
"Inside-outside and forward-backward algorithms are just backprop", 2016), that of the best score is the path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra import Semiring
from ..contract import einsum
from ..semiring import get
from .checks import lengths_of, options_of, require_shapes

__all__ = ["forward", "linear_chain", "posterior_marginals", "viterbi"]

HALVED = 1 << 13
"""Up to so many elements of a step's matrices in the whole batch, products of matrices are faster.

Measured on a CPU, forward and backward: a step of vectors takes about 0.4 ms whatever its size, a matrix
about 40 ns for each of its elements.
"""


def forward(
    log_initial: Tensor,
    log_transitions: Tensor,
    log_emissions: Tensor,
    lengths: Tensor | None = None,
    semiring: str | Semiring = "log",
) -> Tensor:
    """The sum over all paths of hidden states, by default the log-likelihood of the observations.

    With few states, matrices of neighbouring places are multiplied, log2(T) times half of them with the other
    half: B·T·S³ operations in all. With more, places follow one another: T steps of B·S² operations.

    Args:
        log_initial: (S,), for each state that of starting in it; floating.
        log_transitions: (S, S), from the state of the row to that of the column.
        log_emissions: (B, T, S), of the observation at each place in each state.
        lengths: (B,) integers from 1 to T; what comes after them is padding, of any value.
        semiring: over which the three are scores: logarithms of probabilities for ``"log"`` and
            ``"max_plus"``, probabilities for ``"real"``.

    Returns:
        (B,). Over ``"log"``, -inf for what can't be observed; its gradient is 0.

    Raises:
        OperandError: shapes, lengths or numbers that don't fit.

    Example:
        A coin that may be biased, and observations of it:

        >>> initial = torch.tensor([0.5, 0.5]).log()
        >>> transitions = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> heads, tails = torch.tensor([0.5, 0.8]).log(), torch.tensor([0.5, 0.2]).log()
        >>> observed = torch.stack([heads, heads, tails, heads]).unsqueeze(0)
        >>> forward(initial, transitions, observed).exp()
        tensor([0.0845])
    """
    sizes = require_shapes(
        log_initial=(log_initial, "S"),
        log_transitions=(log_transitions, "S S"),
        log_emissions=(log_emissions, "B T S"),
    )
    batch, places, states = sizes["B"], sizes["T"], sizes["S"]
    lengths = lengths_of(lengths, batch, places, log_emissions.device)
    algebra = get(semiring)
    within = torch.arange(places, device=log_emissions.device) < lengths.unsqueeze(1)
    # Padding may be infinite or nan, and even where it isn't used, derivatives of it would be.
    emissions = log_emissions.where(within.unsqueeze(2), algebra.one_of(log_emissions.dtype))
    first = einsum("s,bs->bs", log_initial, emissions[:, 0], semiring=semiring)
    if batch * states**2 <= HALVED:
        matrices = einsum("ij,btj->btij", log_transitions, emissions[:, 1:], semiring=semiring)
        last = _times_all(first, _where(within[:, 1:], matrices, algebra), semiring)
    else:
        last = first
        for place in range(1, places):
            step = einsum("bi,ij,bj->bj", last, log_transitions, emissions[:, place], **options_of(semiring))
            last = step.where(within[:, place, None], last)
    total: Tensor = einsum("bs->b", last, **options_of(semiring))
    return total


def linear_chain(
    potentials: Tensor, lengths: Tensor | None = None, semiring: str | Semiring = "log"
) -> Tensor:
    """The sum over all paths through a chain of potentials, such as those of a conditional random field.

    The gradient gives the marginals of pairs of neighbours, over ``"max_plus"`` those of the best path.
    (Lafferty, McCallum and Pereira, "Conditional random fields", 2001.)

    Args:
        potentials: (B, T - 1, S, S), of the state at place t (row) and the next one (column).
        lengths: (B,) integers from 1 to T.
        semiring: over which potentials are multiplied along a path, and paths summed.

    Returns:
        (B,): over ``"log"`` the logarithm of the partition function.

    Raises:
        OperandError: shapes, lengths or numbers that don't fit.

    Example:
        >>> potentials = torch.zeros(1, 3, 2, 2, requires_grad=True)
        >>> total = linear_chain(potentials)
        >>> total.exp()  # paths through four places
        tensor([16.], grad_fn=...)
        >>> torch.autograd.grad(total.sum(), potentials)[0][0, 0]
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]])
    """
    sizes = require_shapes(potentials=(potentials, "B steps S S"))
    batch, places = sizes["B"], sizes["steps"] + 1
    lengths = lengths_of(lengths, batch, places, potentials.device)
    within = torch.arange(1, places, device=potentials.device) < lengths.unsqueeze(1)
    algebra = get(semiring)
    first = potentials.new_full((batch, sizes["S"]), algebra.one_of(potentials.dtype))
    last = _times_all(first, _where(within, potentials, algebra), semiring)
    total: Tensor = einsum("bs->b", last, **options_of(semiring))
    return total


def viterbi(
    log_initial: Tensor,
    log_transitions: Tensor,
    log_emissions: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The most probable path of hidden states, as the gradient of its score.

    (Viterbi 1967; Rabiner 1989, section III.B.)

    Args:
        log_initial: (S,), as for :func:`forward`.
        log_transitions: (S, S).
        log_emissions: (B, T, S).
        lengths: (B,) integers from 1 to T.

    Returns:
        Scores (B,), differentiable, and paths (B, T) int64 with -1 after the end of a sequence. Among equal
        paths it's always the same one. A path of score -inf is any path.

    Raises:
        OperandError: shapes, lengths or dtypes that don't fit.

    Example:
        >>> initial = torch.tensor([0.5, 0.5]).log()
        >>> transitions = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> emissions = torch.tensor([[[0.5, 0.8], [0.5, 0.8], [0.5, 0.01], [0.5, 0.2]]]).log()
        >>> scores, paths = viterbi(initial, transitions, emissions)
        >>> scores.exp(), paths
        (tensor([0.0228]), tensor([[0, 0, 0, 0]]))
    """
    scores, chosen = _with_gradient(log_initial, log_transitions, log_emissions, lengths, "max_plus", False)
    batch, places = chosen.shape[:2]
    ends = lengths_of(lengths, batch, places, chosen.device)
    within = torch.arange(places, device=chosen.device) < ends.unsqueeze(1)
    return scores, chosen.argmax(2).where(within, -1)


def posterior_marginals(
    log_initial: Tensor,
    log_transitions: Tensor,
    log_emissions: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    """The probability of each state at each place, given all observations.

    What the forward-backward algorithm computes (Baum et al. 1970; Rabiner 1989, equation 27), as the
    gradient of the log-likelihood. Differentiable itself.

    Args:
        log_initial: (S,), as for :func:`forward`.
        log_transitions: (S, S).
        log_emissions: (B, T, S).
        lengths: (B,) integers from 1 to T.

    Returns:
        (B, T, S): adds to 1 over the states, and is 0 after the end of a sequence and throughout one that is
        impossible.

    Raises:
        OperandError: shapes, lengths or dtypes that don't fit.

    Example:
        >>> initial = torch.tensor([0.5, 0.5]).log()
        >>> transitions = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> emissions = torch.tensor([[[0.5, 0.8], [0.5, 0.8], [0.5, 0.2]]]).log()
        >>> posterior_marginals(initial, transitions, emissions)
        tensor([[[0.4318, 0.5682],
                 [0.4678, 0.5322],
                 [0.5636, 0.4364]]])
    """
    again = torch.is_grad_enabled()
    return _with_gradient(log_initial, log_transitions, log_emissions, lengths, "log", again)[1]


def _with_gradient(
    initial: Tensor,
    transitions: Tensor,
    emissions: Tensor,
    lengths: Tensor | None,
    semiring: str,
    again: bool,
) -> tuple[Tensor, Tensor]:
    """The sum over all paths and its derivative by the emissions, which is differentiable if ``again``."""
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (initial, transitions, emissions))
    with torch.enable_grad():
        leaf = (
            emissions.view_as(emissions) if emissions.requires_grad else emissions.detach().requires_grad_()
        )
        totals = forward(initial, transitions, leaf, lengths, semiring)
        (grad,) = torch.autograd.grad(
            totals.sum(), leaf, retain_graph=recorded, create_graph=recorded and again
        )
    return (totals, grad) if recorded else (totals.detach(), grad)


def _where(within: Tensor, matrices: Tensor, algebra: Semiring) -> Tensor:
    """Matrices (B, N, S, S), and the identity where they're outside."""
    states, dtype = matrices.shape[-1], matrices.dtype
    diagonal = torch.eye(states, dtype=torch.bool, device=matrices.device)
    zero = torch.full((states, states), algebra.zero_of(dtype), dtype=dtype, device=matrices.device)
    identity = zero.masked_fill(diagonal, algebra.one_of(dtype))
    return matrices.where(within[:, :, None, None], identity)


def _times_all(first: Tensor, matrices: Tensor, semiring: str | Semiring) -> Tensor:
    """Vectors (B, S) times N matrices (B, N, S, S), one after the other or by halves."""
    options = options_of(semiring)
    while matrices.shape[1] > 1 and matrices[:, 0].numel() <= HALVED:
        even = matrices.shape[1] // 2 * 2
        pairs = einsum("bnij,bnjk->bnik", matrices[:, 0:even:2], matrices[:, 1:even:2], **options)
        matrices = torch.cat([pairs, matrices[:, even:]], 1)
    for matrix in matrices.unbind(1):
        first = einsum("bi,bij->bj", first, matrix, **options)
    return first
