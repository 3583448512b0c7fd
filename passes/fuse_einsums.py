"""Make one contraction of contractions that feed one another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..equation import LETTERS, Equation
from ..graphs.networks import plan_of
from ..graphs.nodes import Contraction, as_contraction, inherit, insert_contraction, value_of
from ..graphs.regrouping import why_not_combine, why_not_regroup
from ..graphs.spellings import read
from ..legality import Effects, is_layout_free, use_count
from ..options import Options
from ..planning import plan
from ..rewrite import Pass, decline


@dataclass(frozen=True)
class FuseEinsums(Pass):
    """Put a contraction that is used by one other contraction into it, through permutes and sums too.

    The contraction path of the whole is then free. Only contractions over the same semiring, with the same
    options, meet; what only reorders dimensions goes into any. A producer with several users is put into
    all of them only where the plans predict that computing it again is faster than keeping it; a contraction
    with index patterns meets another one only where the whole is predicted to be clearly faster.

    Args:
        compute_again_bytes: contractions whose result takes at least so many bytes are computed again for
            each use, whatever that costs.
        assume_same_dtype: fuse where the dtypes aren't known, taking all operands to be of one. Without
            it such contractions are left alone.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> def chain(a, b, c):
        ...     return torch.einsum("ij,jk->ik", torch.einsum("ij,jk->ki", a, b).t(), c)
        >>> traced = fx.symbolic_trace(chain)
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 5)))
        []
        >>> FuseEinsums().apply(traced)
        2
        >>> print(readable_code(traced.graph))
        def forward(self, a, b, c):
            einsum_3 = torch.functional.einsum('ab,bc,cd->ad', a, b, c)
            return einsum_3
    """

    name: ClassVar[str] = "fuse-einsums"

    assume_same_dtype: bool = False
    compute_again_bytes: int | None = None

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Fuse in place; one rewrite is one producer that went into its users."""
        graph = graph_module.graph
        effects = Effects.of(graph, graph_module)
        rewrites = 0
        for node in reversed(list(graph.nodes)):
            if not node.users or node.op not in ("call_function", "call_method"):
                continue
            producer = read(node)
            if producer is None:
                continue
            users = [user for user in node.users if as_contraction(user) is not None]
            if not users or len(users) < len(node.users):
                continue
            if not self._may_fuse(effects, node, producer, users):
                continue
            if _meets_patterns(producer, users) and not _together_is_faster(producer, node, users):
                continue
            if use_count(node) > 1 and not (
                self._is_too_large(node) or _recomputing_is_faster(producer, node, users)
            ):
                continue
            for user in users:
                _inline(graph, effects, user, node, producer)
            graph.erase_node(node)
            rewrites += 1
        return rewrites

    def _is_too_large(self, node: fx.Node) -> bool:
        value = value_of(node)
        return (
            self.compute_again_bytes is not None
            and value is not None
            and value.bytes >= self.compute_again_bytes
        )

    def _may_fuse(self, effects: Effects, node: fx.Node, producer: Contraction, users: list[fx.Node]) -> bool:
        involved = list(producer.operands)
        for user in users:
            involved += _contraction(user).operands
        for user in users:
            reason = _why_apart(node, producer, user) or self._why_not_regroup(producer, user, involved)
            if reason is not None:
                decline(node, reason)
                return False
        if effects.is_mutated(node) or any(effects.is_written(x) for x in producer.operands):
            decline(node, "something writes to its result or its operands")
            return False
        for user in users:
            reason = _why_not_inside(effects, node, producer, user)
            if reason is not None:
                decline(node, reason)
                return False
        return True

    def _why_not_regroup(self, producer: Contraction, user: fx.Node, involved: list[fx.Node]) -> str | None:
        consumer = _contraction(user)
        options = _whole(producer, consumer).options
        if not options.is_plain:
            arranges = producer.arranges or consumer.arranges
            return None if arranges else why_not_regroup(options, involved)
        if self.assume_same_dtype and any(value_of(x) is None for x in involved):
            return None
        return why_not_regroup(options, involved)


def _whole(producer: Contraction, consumer: Contraction) -> Contraction:
    """Which of the two says what both together mean: the other one may only arrange."""
    return producer if consumer.arranges else consumer


def _why_apart(node: fx.Node, producer: Contraction, user: fx.Node) -> str | None:
    """Why what producer and user mean doesn't combine, or None if it does."""
    consumer = _contraction(user)
    if producer.arranges or consumer.arranges:
        return None
    inner, outer = producer.options, consumer.options
    if inner.semiring.name != outer.semiring.name:
        return f"it sums over {inner.semiring.name}, and {user} over {outer.semiring.name}"
    if (reason := why_not_combine(inner) or why_not_combine(outer)) is not None:
        return reason
    if inner.linear() != outer.linear():
        return f"it has other options than {user}"
    if any(consumer.operands[position] is node for position in outer.linear_operands):
        return f"it is a logarithm, and {user} takes it as a number"
    return None


def _why_not_inside(effects: Effects, node: fx.Node, producer: Contraction, user: fx.Node) -> str | None:
    """Why the producer can't be computed where its user is, or None if it can."""
    if not effects.may_move_reads(producer.operands, node, user):
        return f"something writes to its operands before {user} reads it"
    consumer = _contraction(user)
    whole = _substituted(consumer, node, producer)
    if consumer.options.is_plain and not whole.options.is_plain and not is_layout_free(user):
        return f"somebody may see the strides of {user}, a view of it"
    alone = len(whole.tensors) == 1 and not (producer.arranges or consumer.arranges)
    if (whole.has_patterns and alone) or (
        len(whole.operands) == 1 and not whole.equation.summed and not whole.arranges
    ):
        return f"fused with {user} it could share the memory of its operand"
    if _takes_diagonal(consumer, node, producer):
        return f"{user} takes a diagonal of it, and its operands may broadcast there"
    if len(whole.equation.labels) > len(LETTERS):
        return f"fused with {user} it would have more than {len(LETTERS)} labels"
    return None


def _contraction(node: fx.Node) -> Contraction:
    contraction = as_contraction(node)
    if contraction is None:
        raise AssertionError(f"{node} was read as a contraction before")
    return contraction


def _substituted(consumer: Contraction, node: fx.Node, producer: Contraction) -> Contraction:
    equation, operands, outer = consumer
    linear = [position in outer.linear_operands for position in range(len(operands))]
    inner = [position in producer.options.linear_operands for position in range(len(producer.operands))]
    while node in operands:
        position = operands.index(node)
        equation = equation.substitute(position, producer.equation)
        operands = (*operands[:position], *producer.operands, *operands[position + 1 :])
        linear[position : position + 1] = [linear[position]] if producer.arranges else inner
    options: Options = _whole(producer, consumer).options
    return Contraction(equation, operands, options.linear(*(i for i, x in enumerate(linear) if x)))


def _takes_diagonal(consumer: Contraction, node: fx.Node, producer: Contraction) -> bool:
    """Whether fusion would make one label of two dimensions of an operand, of which one may have size 1."""
    for labels, operand in zip(consumer.equation.inputs, consumer.operands, strict=True):
        if operand is not node or len(set(labels)) == len(labels):
            continue
        name = dict(zip(producer.equation.output, labels, strict=True))
        for inner in producer.equation.inputs:
            merged = [name[x] for x in set(inner) if x in name]
            if len(set(merged)) < len(merged):
                return True
    return False


def _inline(graph: fx.Graph, effects: Effects, user: fx.Node, node: fx.Node, producer: Contraction) -> None:
    fused = _substituted(_contraction(user), node, producer)
    with graph.inserting_before(user):
        new = inherit(insert_contraction(graph, *fused), user)
    effects.adopt(new, user)
    user.replace_all_uses_with(new)
    graph.erase_node(user)


def _meets_patterns(producer: Contraction, users: list[fx.Node]) -> bool:
    """Whether a convolution would become part of something else than a reordering of dimensions."""
    consumers = [_contraction(user) for user in users]
    if producer.arranges or all(consumer.arranges for consumer in consumers):
        return False
    return producer.has_patterns or any(consumer.has_patterns for consumer in consumers)


_CLEARLY = 0.9
"""Convolutions are fused where the whole is predicted to take less than this part of the time apart."""


def _together_is_faster(producer: Contraction, node: fx.Node, users: list[fx.Node]) -> bool:
    apart = [_seconds(producer), *(_seconds(_contraction(user)) for user in users)]
    together = [_seconds(_substituted(_contraction(user), node, producer)) for user in users]
    known = [seconds for seconds in apart + together if seconds is not None]
    if len(known) < len(apart) + len(together):
        decline(node, "what it costs beside a convolution isn't known")
        return False
    before, after = sum(known[: len(apart)]), sum(known[len(apart) :])
    if after < _CLEARLY * before:
        return True
    decline(
        node,
        f"fused with a convolution it is predicted to take {after * 1e6:.3g} us, "
        f"and {before * 1e6:.3g} us apart",
    )
    return False


_WORTH_PLANNING = 50e-6
"""Seconds of computation below which another plan can't save what it costs to look for it."""


def _recomputing_is_faster(producer: Contraction, node: fx.Node, users: list[fx.Node]) -> bool:
    apart = [_seconds(producer), *(_seconds(_contraction(user)) for user in users)]
    known = [seconds for seconds in apart if seconds is not None]
    if len(known) < len(apart):
        return False
    if sum(known) < _WORTH_PLANNING:
        decline(node, "it has several uses, and takes too little time to look for a better plan")
        return False
    together = 0.0
    for user in users:
        seconds = _seconds(_substituted(_contraction(user), node, producer))
        together += math.inf if seconds is None else seconds
    if together < 0.95 * sum(known):
        return True
    decline(node, "it has several uses, and computing it again for each is not predicted to be faster")
    return False


def _seconds(contraction: Contraction) -> float | None:
    values = [value_of(operand) for operand in contraction.operands]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if contraction.has_patterns:
        planned = plan_of(contraction)
        return None if planned is None else planned.seconds
    equation: Equation = contraction.equation
    shapes = [value.shape for value in known]
    options = contraction.options
    return plan(equation, shapes, dtype=known[0].dtype, device=str(known[0].device), options=options).seconds
