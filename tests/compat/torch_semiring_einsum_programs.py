"""Programs of torch_semiring_einsum's users, run in a process of their own on it or on einfx.

    python torch_semiring_einsum_programs.py PROGRAMS REPLACE OUT

PROGRAMS is ``fggs``, which needs that package, or ``others``; REPLACE is ``yes`` to run on einfx, ``no`` for
torch_semiring_einsum itself; OUT receives a dictionary of lists of tensors by the name of the program.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

warnings.filterwarnings("ignore")

Results = dict[str, list[Tensor]]


def grammar(fggs: Any, name: str) -> Any:
    """A factor graph grammar: a hidden Markov model, or one whose rules branch."""
    from fggs import FGG, Graph

    made = FGG("S")
    states, words = 4, 5
    made.new_finite_domain("state", range(states))
    made.new_finite_domain("word", range(words))
    torch.manual_seed(3)
    start, rest = Graph(), Graph()
    first = start.new_node("state")
    start.new_edge("begin", [first], is_terminal=True)
    start.new_edge("X", [first], is_nonterminal=True)
    made.new_rule("S", start)
    here, there, word = rest.new_node("state"), rest.new_node("state"), rest.new_node("word")
    rest.new_edge("go", [here, there], is_terminal=True)
    rest.new_edge("say", [there, word], is_terminal=True)
    rest.new_edge("X", [there], is_nonterminal=True)
    if name == "branching":
        other = rest.new_node("state")
        rest.new_edge("part", [here, other, there], is_terminal=True)
        rest.new_edge("X", [other], is_nonterminal=True)
    rest.ext = [here]
    made.new_rule("X", rest)
    end = Graph()
    last = end.new_node("state")
    end.new_edge("stop", [last], is_terminal=True)
    end.ext = [last]
    made.new_rule("X", end)
    shapes = {"begin": (states,), "go": (states, states), "say": (states, words), "stop": (states,)}
    if name == "branching":
        shapes["part"] = (states, states, states)
    for factor, shape in shapes.items():
        made.new_finite_factor(factor, torch.rand(shape) * 0.25)
    return made


def fggs_programs(results: Results) -> None:
    """Sums over all derivations of a grammar in every semiring, gradients, and the best derivation."""
    import fggs

    for name in ("chain", "branching"):
        results[f"{name}, weights"] = [x.weights.clone() for x in grammar(fggs, name).factors.values()]
        for method in ("fixed-point", "newton"):
            for semiring in (fggs.RealSemiring(), fggs.LogSemiring()):
                made = grammar(fggs, name)
                log = isinstance(semiring, fggs.LogSemiring)
                leaves = []
                for factor in made.factors.values():
                    factor.weights = (factor.weights.log() if log else factor.weights).requires_grad_()
                    leaves.append(factor.weights)
                total = fggs.sum_product(made, method=method, semiring=semiring, tol=1e-12)
                key = f"{name}, {method}, {type(semiring).__name__}"
                results[key] = [total.detach(), *torch.autograd.grad(total, leaves)]
        for semiring in (fggs.ViterbiSemiring(), fggs.BoolSemiring()):
            made = grammar(fggs, name)
            for factor in made.factors.values():
                factor.weights = (
                    factor.weights.log() if semiring.dtype != torch.bool else factor.weights > 0.03
                )
            total = fggs.sum_product(made, method="fixed-point", semiring=semiring, tol=1e-12)
            results[f"{name}, {type(semiring).__name__}"] = [total]
    made = grammar(fggs, "branching")
    for factor in made.factors.values():
        factor.weights = factor.weights.log()
    derivation = fggs.viterbi(made, (), semiring=fggs.ViterbiSemiring())
    graph, chosen = derivation.derive()
    results["best derivation"] = [torch.tensor([int(chosen[node]) for node in graph.nodes()])]
    infinite = torch.tensor([[0.0, torch.inf], [1.0, 2.0]])
    for semiring in (fggs.RealSemiring(), fggs.LogSemiring(), fggs.ViterbiSemiring()):
        zero = semiring.from_int(torch.tensor([[0, 1], [1, 0]]))
        equation = tse().compile_equation("ij,jk->ik")
        results[f"zero annihilates, {type(semiring).__name__}"] = [semiring.einsum(equation, zero, infinite)]


def tse() -> Any:
    import torch_semiring_einsum

    return torch_semiring_einsum


def other_programs(results: Results) -> None:
    neural_stack(results)
    grammar_of_low_rank(results)
    relations(results)
    own_semiring_with_gradient(results)
    views_of_equations(results)


def neural_stack(results: Results) -> None:
    """A weighted automaton over a batch, trained a few steps: blocks by number and by memory."""
    library = tse()
    small = library.AutomaticBlockSize(max_cpu_bytes=4096, repr_string="small")
    for block_size in (2, 16, library.AUTOMATIC_BLOCK_SIZE, small):
        torch.manual_seed(0)
        push = torch.randn(3, 4, 4, 5, requires_grad=True)
        reading = torch.randn(3, 4, requires_grad=True)
        step = library.compile_equation("bqx,bqrsx->brs")
        merge = library.compile_equation("brs,bs->br")
        optimizer = torch.optim.SGD([push, reading], lr=0.1)
        losses = []
        for _ in range(3):
            state = torch.log_softmax(push, -1)
            weights = library.log_einsum(
                step, state.sum(2), state.unsqueeze(2).expand(3, 4, 6, 4, 5), block_size=block_size
            )
            total = library.log_einsum(merge, weights, reading, block_size=block_size, grad_of_neg_inf=0.0)
            loss = -total.logsumexp(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        results[f"automaton, block_size={block_size!r}"] = [*losses, push.detach(), reading.detach()]


def grammar_of_low_rank(results: Results) -> None:
    """The inside algorithm of a grammar whose rules have low rank, padded with large negative scores."""
    library = tse()
    torch.manual_seed(0)
    batch, length, states, rank = 2, 6, 5, 3
    combine = library.compile_equation("bnwr,bnwr->bnr")
    lift = library.compile_equation("bnr,bar->bna")
    lower = library.compile_equation("bna,bar->bnr")
    left, right, head = (torch.randn(batch, states, rank, requires_grad=True) for _ in range(3))
    words = torch.randn(batch, length, states, requires_grad=True)
    charts = [library.log_einsum(lower, words, side, block_size=4) for side in (left, right)]
    table = [[chart] for chart in charts]
    for width in range(1, length):
        count = length - width
        pairs = [
            torch.stack([table[0][w][:, :count] for w in range(width)], 2),
            torch.stack([table[1][width - 1 - w][:, w + 1 : w + 1 + count] for w in range(width)], 2),
        ]
        pairs[0] = torch.cat((pairs[0], torch.full((batch, count, 1, rank), -1e9)), 2)
        pairs[1] = torch.cat((pairs[1], torch.full((batch, count, 1, rank), -1e9)), 2)
        inside = library.log_einsum(lift, library.log_einsum(combine, *pairs), head)
        for side, chart in zip((left, right), table, strict=True):
            chart.append(library.log_einsum(lower, inside, side, block_size=4))
    total = table[0][-1].logsumexp((1, 2)).sum()
    results["inside of low rank"] = [total.detach(), *torch.autograd.grad(total, (left, right, head, words))]


def relations(results: Results) -> None:
    """Fuzzy relations: the best of the worst, hard and soft, with the classes of a submodule."""
    from torch_semiring_einsum.equation import AUTOMATIC_BLOCK_SIZE, AutomaticBlockSize, Equation

    library = tse()
    torch.manual_seed(0)
    a, b = torch.rand(4, 7), torch.rand(7, 3)
    equation: Any = library.compile_equation("ij,jk->ik")
    assert isinstance(equation, Equation)
    assert isinstance(AUTOMATIC_BLOCK_SIZE, AutomaticBlockSize)

    def soft(temperature: float, sign: float) -> tuple[Any, Any]:
        def in_place(x: Tensor, y: Tensor) -> None:
            x.copy_(sign * temperature * torch.logaddexp(sign * x / temperature, sign * y / temperature))

        def block(x: Tensor, dims: Sequence[int]) -> Tensor:
            if not dims:
                return x
            return sign * temperature * torch.logsumexp(sign * x / temperature, list(dims))

        return in_place, block

    for temperature in (0.1, 1.0):
        (most, most_block), (least, _) = soft(temperature, 1.0), soft(temperature, -1.0)

        def join(compute_sum: Any, most: Any = most, most_block: Any = most_block, least: Any = least) -> Any:
            return compute_sum(most, most_block, least)

        for size in (1, 3, AUTOMATIC_BLOCK_SIZE):
            got = library.semiring_einsum_forward(equation, [a, b], size, join)
            results[f"soft relations {temperature} {size!r}"] = [got]

    def hard(compute_sum: Any) -> Any:
        return compute_sum(
            library.utils.max_in_place, library.utils.max_block, lambda x, y: torch.min(x, y, out=x)
        )

    results["hard relations"] = [library.semiring_einsum_forward(equation, (a, b), 2, hard)]


def own_semiring_with_gradient(results: Results) -> None:
    """Log sums in base 2, with a derivative, made one function; the parts of log sums are used again."""
    library = tse()
    torch.manual_seed(0)
    scale = torch.log(torch.tensor(2.0, dtype=torch.float64))

    def forward(equation: Any, *args: Tensor, block_size: Any, keep: Any = None) -> Tensor:
        values, largest, sums = library.log_einsum_forward(
            equation,
            *[x * scale for x in args],
            block_size=block_size,
            return_max=True,
            return_sumexpsub=True,
        )
        if keep is not None:
            keep.update(saved_max=largest, saved_sumexpsub=sums)
        result: Tensor = values / scale
        return result

    def backward(
        equation: Any, args: Any, needs_grad: Any, grad: Tensor, block_size: Any, keep: Any = None
    ) -> Any:
        saved = keep or {}
        scaled = [x * scale for x in args]
        return library.log_einsum_backward(equation, scaled, needs_grad, grad, block_size, **saved)

    function = library.combine(forward, backward, forward_options=("keep",), backward_options=("keep",))
    equation = library.compile_equation("bik,bkj,k->bij")
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (2, 4, 5), (4,))]
    weights = torch.randn(2, 3, 5, dtype=torch.float64)
    kept: dict[str, Tensor] = {}
    for keep in (None, kept):
        got = function(equation, *args, block_size=2, keep=keep)
        results[f"base 2, {keep is None}"] = [got.detach(), *torch.autograd.grad(got, args, weights)]


def views_of_equations(results: Results) -> None:
    """Equations taken apart and put together again, as programs do that shrink expanded operands."""
    library = tse()
    equation = library.compile_equation("ab,bcd->adc")
    args = [torch.arange(2.0)[:, None].expand(2, 3), torch.arange(12.0).reshape(3, 4, 1).expand(3, 4, 5)]
    shape = equation.get_sizes(args, equation.output_variables)
    locations = [list(x) for x in equation.variable_locations]
    inputs = [list(x) for x in equation.input_variables]
    kept = [x for x in range(equation.num_variables) if x not in equation.output_variables]
    made = library.Equation("again", locations, inputs, list(equation.output_variables), 4)
    results["equations"] = [
        torch.tensor(shape),
        torch.tensor(kept),
        library.einsum(made, *args, block_size=1),
        library.real_einsum_forward(equation, *args),
        *library.log_viterbi_einsum_forward(equation, *args, block_size=2),
    ]


def main(programs: str, replace: str, out: str) -> None:
    if replace == "yes":
        import einfx.compat

        einfx.compat.install("torch_semiring_einsum")
    import torch_semiring_einsum
    import torch_semiring_einsum.utils

    assert torch_semiring_einsum.__name__.startswith("einfx.") == (replace == "yes")
    torch.set_default_dtype(torch.float64)
    results: Results = {}
    {"fggs": fggs_programs, "others": other_programs}[programs](results)
    torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
