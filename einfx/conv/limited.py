"""Contractions with patterns whose gradients keep to the memory limit too.

A gradient is a contraction with patterns as well: of the gradient of the result with all other operands. So
nothing but the operands is saved, and each gradient is computed by a plan of its own, one after another,
beside those that are there already. That all of them fit is known before the forward pass runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..dispatch import contract as contract_plain
from ..equation import Equation
from ..errors import MemoryLimitError
from ..kernels.batching import has_tangents
from ..machine import accumulation_dtype, item_bytes
from ..pattern import IndexPattern
from ..plans import size_text
from .planning.cut_plan import CutPlan
from .planning.limits import bytes_of, plan_within, within
from .planning.plan import ConvPlan
from .symbolic.network import Network, Operand
from .symbolic.views import View

__all__ = ["LimitedContraction", "gradient_network", "limited", "limited_program", "wants_gradients"]

Plan = ConvPlan | CutPlan


def wants_gradients(tensors: Sequence[Tensor]) -> bool:
    """Whether a backward pass, and no transform of functions, may ask for the gradient of one of these."""
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        return False
    return not torch._C._are_functorch_transforms_active() and not has_tangents(tensors)


def limited_program(
    network: Network,
    dtype: torch.dtype,
    device: torch.device,
    limit: int,
    optimize: Any,
    strided: frozenset[int],
    wanted: frozenset[int],
) -> Callable[[Sequence[Any]], Tensor]:
    """What contracts operands within a limit, and their gradients within the same.

    Args: as of :func:`limited`, but that tensors may have a label twice.

    Raises:
        MemoryLimitError: the limit is too small for the result or for the gradients.
    """
    plain, spent = network, 0
    for p, operand in enumerate(network.operands):
        labels = network.equation.inputs[p]
        if isinstance(operand, View) and len({*labels}) < len(labels):
            plain = _without_diagonals(plain, p)
            # Its gradient is that of the diagonal, put into zeros.
            spent += bytes_of(network, frozenset([p]), dtype) if p in wanted else 0
            strided |= {p}
    made = limited(
        plain, dtype, device.type, limit - spent, optimize, strided, wanted, torch.get_num_threads()
    )
    if plain is network:
        return made
    return lambda operands: made(
        [
            _diagonal(x, labels) if isinstance(x, Tensor) else x
            for x, labels in zip(operands, network.equation.inputs, strict=True)
        ]
    )


def _without_diagonals(network: Network, position: int) -> Network:
    """The network of the diagonal of an operand along each label that it has twice."""
    inputs, operands = list(network.equation.inputs), list(network.operands)
    inputs[position] = tuple(dict.fromkeys(inputs[position]))
    operands[position] = View(position, tuple(network.sizes[label] for label in inputs[position]))
    return Network(Equation(tuple(inputs), network.equation.output), tuple(operands))


def _diagonal(tensor: Tensor, labels: tuple[int, ...]) -> Tensor:
    return contract_plain(Equation((labels,), tuple(dict.fromkeys(labels))), (tensor,), "auto")


def gradient_network(network: Network, position: int) -> Network:
    """The contraction that the gradient of an operand is.

    Args:
        network: the contraction; no tensor of it has a label twice.
        position: of the operand, a tensor.

    Returns:
        A network of the gradient of the result, then of all other operands; labels that the operand has for
        itself, and those along which it broadcasts, are not in its output.

    Example:
        >>> from .symbolic.network import network
        >>> conv = network(["ni", "koi", "k"], "no", View(0, (2, 8)), IndexPattern(8, 3), View(2, (3,)))
        >>> str(gradient_network(conv, 2).equation)
        'ab,ac,dbc->d'
    """
    inputs = network.equation.inputs
    others = _others(network, position)
    operands: list[Operand] = [View(0, network.shape)]
    first: dict[int, int] = {}
    for place, p in enumerate(others, 1):
        operand = network.operands[p]
        if isinstance(operand, View):
            operand = View(first.setdefault(operand.position, place), operand.shape)
        operands.append(operand)
    equation = Equation(
        (network.equation.output, *(inputs[p] for p in others)), tuple(_kept(network, position))
    )
    return Network(equation, tuple(operands))


def _kept(network: Network, position: int) -> list[int]:
    """The labels of an operand that its gradient's contraction gives, in their order."""
    others = [network.equation.inputs[p] for p in _others(network, position)]
    there = {label for labels in others for label in labels}.union(network.equation.output)
    return [
        label
        for label, size in zip(
            network.equation.inputs[position], network.operands[position].shape, strict=True
        )
        if label in there and (size != 1 or network.sizes[label] == 1)
    ]


def _others(network: Network, position: int) -> list[int]:
    return [p for p in range(len(network.operands)) if p != position]


@dataclass(frozen=True)
class LimitedContraction:
    """A contraction that keeps to a limit, and whose gradients do.

    Args:
        network: what is contracted; no tensor of it has a label twice.
        plan: how.
        gradients: for each tensor whose gradient is asked for, in the order in which they are computed: the
            position of the first operand that it is, and the positions of all, each with a plan.
        limit: the most bytes beyond the operands.
    """

    network: Network
    plan: Plan
    gradients: tuple[tuple[int, tuple[tuple[int, Plan], ...]], ...]
    limit: int

    def __call__(self, operands: Sequence[Tensor | IndexPattern]) -> Tensor:
        """Contract tensors, and record it so that the gradients are computed within the limit.

        Args:
            operands: of the network.
        """
        tensors = [operands[p] for p in self.places]
        result: Tensor = _Limited.apply(self, *tensors)  # type: ignore[no-untyped-call]
        return result

    @property
    def places(self) -> list[int]:
        """The positions of tensors, each that is given more than once by its first."""
        return [p for p, x in enumerate(self.network.operands) if isinstance(x, View) and x.position == p]

    def operands(self, tensors: Sequence[Tensor]) -> list[Tensor | IndexPattern]:
        """All operands.

        Args:
            tensors: those at :attr:`places`.
        """
        given = dict(zip(self.places, tensors, strict=True))
        return [x if isinstance(x, IndexPattern) else given[x.position] for x in self.network.operands]  # type: ignore[union-attr]


@lru_cache(maxsize=1024)
def limited(
    network: Network,
    dtype: torch.dtype,
    device: str,
    limit: int,
    optimize: Any,
    strided: frozenset[int],
    wanted: frozenset[int],
    threads: int,
) -> LimitedContraction:
    """A contraction within a limit, and its gradients within the same.

    Args:
        network: what to contract; no tensor of it has a label twice.
        dtype: of its tensors.
        device: where it is computed.
        limit: the most bytes beyond the operands: the result included in the forward pass, all gradients in
            the backward pass.
        optimize: as in :func:`.planning.plan_network`; gradients are planned with ``"auto"``.
        strided: the positions of operands that aren't contiguous.
        wanted: the positions of operands whose gradient may be asked for.
        threads: of the machine.

    Raises:
        MemoryLimitError: the limit is too small for the result or for the gradients.
    """
    plan = plan_within(network, dtype, device, limit, optimize, strided)
    found = gradient_plans(network, dtype, device, limit, strided, wanted, True, threads)
    if isinstance(found, int):
        raise MemoryLimitError(
            f"einsum {network.text!r} with index patterns, and the gradients of operand(s) "
            f"{', '.join(map(str, sorted(wanted)))}: memory_limit={size_text(limit)} is enough for the "
            f"result, but not for the backward pass: the smallest limit that is enough is {found} bytes "
            f"({size_text(found)}), the gradients included"
        )
    return LimitedContraction(network, plan, found, limit)


@lru_cache(maxsize=1024)
def gradient_plans(
    network: Network,
    dtype: torch.dtype,
    device: str,
    limit: int,
    strided: frozenset[int],
    wanted: frozenset[int],
    copied: bool,
    threads: int,
) -> tuple[tuple[int, tuple[tuple[int, Plan], ...]], ...] | int:
    """The plans of all gradients, as :class:`LimitedContraction` has them, or the limit that they need.

    Args: as of :func:`limited`, and ``copied``, whether the gradient of the result may not be contiguous.
    """
    places: dict[int, list[int]] = {}
    for p in sorted(wanted):
        operand = network.operands[p]
        assert isinstance(operand, View)
        places.setdefault(operand.position, []).append(p)

    def planned(position: int, left: int, second: bool) -> Plan | int:
        moved = {p: place for place, p in enumerate(_others(network, position), 1)}
        there = frozenset([moved[p] for p in strided if p != position] + [0] * copied)
        into = second and _adds_in_place(network, position, dtype)
        made = gradient_network(network, position)
        return within(made, dtype, device, max(left, 0), "auto", there, into)

    item = item_bytes(dtype)
    sizes = {first: item * prod(network.operands[first].shape) for first in places}
    # The largest last, as there is least beside it then.
    found, held, needed = [], 0, 0
    for first in sorted(places, key=lambda first: sizes[first]):
        plans: list[tuple[int, Plan]] = []
        for count, position in enumerate(places[first]):
            before = held + (sizes[first] if count else 0)
            plan = planned(position, limit - before, count > 0)
            if isinstance(plan, int):
                needed = max(needed, before + plan)
            else:
                plans.append((position, plan))
        # Along what an operand has for itself its gradient is the same, and no larger than it either.
        held += sizes[first]
        needed = max(needed, held) if held > limit else needed
        found.append((first, tuple(plans)))
    return needed or tuple(found)


class _Limited(torch.autograd.Function):
    """Saves the operands only, and computes one gradient after another."""

    @staticmethod
    def forward(ctx: Any, contraction: LimitedContraction, *tensors: Tensor) -> Tensor:
        ctx.contraction = contraction
        ctx.save_for_backward(*tensors)
        operands = contraction.operands([tensor.detach() for tensor in tensors])
        return contraction.plan.run(operands)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        contraction: LimitedContraction = ctx.contraction
        tensors = ctx.saved_tensors
        needed = [p for p, need in zip(contraction.places, ctx.needs_input_grad[1:], strict=True) if need]
        if torch.is_grad_enabled() and any(x.requires_grad for x in (gradient, *tensors)):
            made = _recorded(contraction, tensors, gradient, needed)
        else:
            made = _computed(contraction, tensors, gradient, needed)
        return None, *(made.get(p) for p in contraction.places)


def _computed(
    contraction: LimitedContraction, tensors: Sequence[Tensor], gradient: Tensor, needed: Sequence[int]
) -> dict[int, Tensor]:
    """The gradients by first position, within the limit."""
    operands = contraction.operands([tensor.detach() for tensor in tensors])
    network, gradients = contraction.network, contraction.gradients
    gradient = gradient.detach()
    if gradient.is_contiguous() and not gradient.is_complex():
        # Those for a gradient that has to be copied need the most.
        like = gradient
        better = gradient_plans(
            network,
            like.dtype,
            like.device.type,
            contraction.limit,
            frozenset(p for p, x in enumerate(operands) if isinstance(x, Tensor) and not x.is_contiguous()),
            frozenset(p for _, plans in gradients for p, _ in plans),
            False,
            torch.get_num_threads(),
        )
        gradients = gradients if isinstance(better, int) else better
    made: dict[int, Tensor] = {}
    for first, plans in gradients:
        if first not in needed:
            continue
        for position, plan in plans:
            values: list[Any] = [gradient.conj(), *(operands[p] for p in _others(network, position))]
            if isinstance(plan, ConvPlan):
                values[0] = gradient.conj().resolve_conj()
            elif plan.into:
                plan.run(values, gradient, made[first].view(plan.network.shape))
                continue
            part = plan.run(values, gradient)
            if part.is_complex():
                part = part.conj_physical_() if part.is_contiguous() else part.conj().resolve_conj()
            part = _spread(network, position, part)
            if first in made:
                made[first].add_(part)
            else:
                made[first] = part.contiguous() if len(plans) > 1 else part
            del part
    return made


def _recorded(
    contraction: LimitedContraction, tensors: Sequence[Tensor], gradient: Tensor, needed: Sequence[int]
) -> dict[int, Tensor]:
    """The same as contractions that can be differentiated again, each of them within the limit by itself."""
    from .contraction import contract

    network, operands = contraction.network, contraction.operands(tensors)
    made: dict[int, Tensor] = {}
    for position, operand in enumerate(network.operands):
        if not isinstance(operand, View) or operand.position not in needed:
            continue
        equation = gradient_network(network, position).equation
        rest = [operands[p] for p in _others(network, position)]
        part = contract(equation, [gradient.conj(), *rest], memory_limit=contraction.limit).conj()
        part = _spread(network, position, part)
        made[operand.position] = made[operand.position] + part if operand.position in made else part
    return made


def _spread(network: Network, position: int, part: Tensor) -> Tensor:
    """What a gradient's contraction gives, along the labels too that the operand has for itself."""
    mine, whole = network.equation.inputs[position], network.operands[position].shape
    sizes = dict(zip(_kept(network, position), part.shape, strict=True))
    return part.reshape([sizes.get(label, 1) for label in mine]).expand(whole)


def _adds_in_place(network: Network, position: int, dtype: torch.dtype) -> bool:
    """Whether blocks of an operand's gradient can be added to another gradient of it."""
    made, operand = gradient_network(network, position), network.operands[position]
    exact = not dtype.is_complex and accumulation_dtype(dtype) == dtype
    return exact and prod(made.shape) == prod(operand.shape)
