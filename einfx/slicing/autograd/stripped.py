"""Contractions within a limit to a mantissa and an exponent, with gradients within the same limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...equation import Equation
from ...errors import MemoryLimitError
from ...exponents import largest
from ...options import Options
from ...paths.choices import hashable
from ...plans import size_text
from ..plans.contraction import sliced_plan
from ..running.stripped import near_one, run_stripped, scale
from ..schedules.plain import plain
from ..search.find_schedule import Sliced
from .one_gradient import one_gradient

__all__ = ["contract_stripped_within"]


def contract_stripped_within(
    equation: Equation, tensors: Sequence[Tensor], optimize: Any, options: Options
) -> tuple[Tensor, Tensor]:
    """Contract tensors within a limit to a mantissa and an exponent to base 10.

    Args:
        equation: what to contract.
        tensors: of one dtype that is sliced, on one device; dimensions of size 1 broadcast.
        optimize: as in :func:`einfx.planning.plan`.
        options: the limit, over real or complex numbers.

    Returns:
        The mantissa, whose largest magnitude is 1, and the exponent, in float64; both 0 where the result is.

    Raises:
        MemoryLimitError: the limit is too small, for the gradients that are asked for too. Operands whose
            numbers are far from 1 are copied, within the limit, to be scaled.

    Example:
        >>> options = Options.read(memory_limit="20 KiB")
        >>> a, b, equation = torch.ones(8, 4000), torch.ones(4000, 8), Equation.parse("ij,jk->ik")
        >>> mantissa, exponent = contract_stripped_within(equation, (a, b), "auto", options)
        >>> mantissa[0, 0], round(exponent.item(), 4)
        (tensor(1.), 3.6021)
    """
    equation, operands = plain(equation, tensors)
    powers = tuple(near_one(x) for x in operands)
    limit = _limit_beside_copies(equation, operands, powers, options)
    wanted: tuple[bool, ...] = ()
    if torch.is_grad_enabled():
        wanted = tuple(x.requires_grad for x in operands)
    copied = [_strides_of_copy(x) if power else x.stride() for x, power in zip(operands, powers, strict=True)]
    key = (equation, tuple(tuple(x.shape) for x in operands), tuple(map(tuple, copied)))
    first, threads = operands[0], torch.get_num_threads()
    frozen = hashable(optimize)

    def sliced(wanted: tuple[bool, ...], beside: int) -> Sliced:
        own = max(limit - beside, 0)
        rest = (frozen, own, first.dtype, first.device.type, options.unlimited(), wanted, threads)
        try:
            return sliced_plan(*key, *rest)
        except MemoryLimitError as error:
            whole = options.memory_limit or 0
            taken = whole - limit + beside
            if not taken or error.needed_bytes is None:
                raise
            needed = error.needed_bytes + taken
            raise MemoryLimitError(
                f"einsum {str(equation)!r} of {', '.join([str(tuple(x.shape)) for x in operands])}: "
                f"memory_limit={whole} ({size_text(whole)}) is too little; with strip_exponent=True, which "
                f"takes {taken} bytes beside the contraction{' and its gradients' if any(wanted) else ''}, "
                f"it needs {needed} bytes ({size_text(needed)}), as far as was found",
                needed,
            ) from None

    backward = None
    if any(wanted):
        # The gradient of the number itself, and what finding its largest magnitude takes.
        count = math.prod(equation.output_shape([x.shape for x in operands]))
        backward = sliced(wanted, 4 * first.itemsize * count)
    forward = sliced((), 0)
    return _Stripped.apply((equation, optimize, options, powers, forward, backward), *operands)  # type: ignore[no-any-return, no-untyped-call]


def _limit_beside_copies(
    equation: Equation, operands: Sequence[Tensor], powers: Sequence[int], options: Options
) -> int:
    """The limit without what copies of operands take that are scaled."""
    limit = options.memory_limit
    assert limit is not None
    chosen = [i for i, power in enumerate(powers) if power]
    copies = sum(operands[i].numel() * operands[i].itemsize for i in chosen)
    if copies and copies >= limit:
        raise MemoryLimitError(
            f"einsum {str(equation)!r}: operands {', '.join(map(str, chosen))} are so large or so small that "
            f"they are copied to be scaled, which takes {copies} bytes ({size_text(copies)}) of "
            f"memory_limit={limit}; scale them yourself, and add the logarithms to the exponent"
        )
    return limit - copies


def _strides_of_copy(x: Tensor) -> tuple[int, ...]:
    return tuple(torch.empty_like(x, device="meta").stride())


def _scaled(operands: Sequence[Tensor], powers: Sequence[int]) -> list[Tensor]:
    """Operands near 1: copies of those that aren't."""
    made = []
    for operand, power in zip(operands, powers, strict=True):
        if power:
            operand = torch.empty_like(operand).copy_(operand)
            scale(operand, power)
        made.append(operand)
    return made


class _Stripped(torch.autograd.Function):
    """Mantissa and exponent; nothing but operands and mantissa is saved for gradients."""

    @staticmethod
    def forward(ctx: Any, how: tuple[Any, ...], *operands: Tensor) -> tuple[Tensor, Tensor]:
        *_, powers, forward, _ = how
        inverse = [-power for power in powers]
        outputs, (power,) = run_stripped(forward.schedule, _scaled(operands, powers), inverse, forward.demand)
        (mantissa,) = outputs
        magnitude = _largest_magnitude(mantissa)
        if magnitude == 0:
            power = 0
        divisor = magnitude if magnitude and math.isfinite(magnitude) else 1.0
        mantissa.div_(divisor)
        exponent = power * math.log10(2) + math.log10(divisor)
        ctx.how, ctx.power, ctx.divisor, ctx.finite = how, power, divisor, divisor == magnitude
        ctx.save_for_backward(*operands, mantissa)
        wide = torch.float32 if mantissa.device.type == "mps" else torch.float64
        return mantissa, torch.tensor(exponent, dtype=wide, device=mantissa.device)

    @staticmethod
    def backward(ctx: Any, of_mantissa: Tensor, of_exponent: Tensor) -> tuple[Any, ...]:
        equation, optimize, options, powers, _, sliced = ctx.how
        *operands, mantissa = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        given = (of_mantissa, of_exponent)
        if torch.is_grad_enabled() and any(x.requires_grad for x in (*given, *operands)):
            return None, *_differentiable(equation, operands, given, wanted, optimize, options)
        gradient = of_mantissa.clone(memory_format=torch.contiguous_format)
        if ctx.finite:
            _through_largest(gradient, mantissa, of_exponent.item())
        gradient.div_(ctx.divisor)
        own = near_one(gradient)
        scale(gradient, own)
        inverse = [-power for power in powers]
        found, exponents = run_stripped(
            sliced.schedule, [*_scaled(operands, powers), gradient], [*inverse, -own], sliced.demand
        )
        for made, power in zip(found, exponents, strict=True):
            scale(made, power - ctx.power)
        rest = iter(found)
        return None, *[next(rest) if need else None for need in wanted]


def _largest_magnitude(x: Tensor) -> float:
    """The largest magnitude; of complex numbers without a copy of all of them."""
    if not x.is_complex() or x.numel() == 0:
        return float(largest(x).item())
    return max(float(part.abs().max().item()) for part in x.flatten().split(65536))


def _through_largest(gradient: Tensor, mantissa: Tensor, of_exponent: float) -> None:
    """From the gradient of a mantissa to that of the number times its largest magnitude, in place.

    With f the largest magnitude, at places s, m = R / f and e = log10 f: the number R has the gradient
    (g - m_s (Re <g, m> - h / ln 10)) / f, where g and h are those of m and e.
    """
    magnitudes = mantissa.abs()
    places = magnitudes == magnitudes.max()
    along = torch.vdot(gradient.flatten(), mantissa.flatten()).real.item()
    share = (of_exponent / math.log(10) - along) / places.sum().item()
    gradient.addcmul_(mantissa, places.to(mantissa.dtype), value=share)


def _differentiable(
    equation: Equation,
    operands: Sequence[Tensor],
    given: tuple[Tensor, Tensor],
    wanted: Sequence[bool],
    optimize: Any,
    options: Options,
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: contractions within the same limit, exponents apart."""
    mantissa, exponent = contract_stripped_within(equation, operands, optimize, options)
    gradient, of_exponent = given
    magnitudes = mantissa.abs()
    if magnitudes.numel() > 0 and (peak := magnitudes.max()) > 0:
        places = magnitudes == peak
        along = (gradient.conj() * mantissa).sum().real
        share = (of_exponent.to(along.dtype) / math.log(10) - along) / places.sum()
        gradient = gradient + share * mantissa * places

    def contract(target: Equation, factors: list[Tensor], _: list[int]) -> Tensor:
        part, power = contract_stripped_within(target, factors, "auto", options)
        return part * (10 ** (power - exponent)).to(part.abs().dtype)

    return [
        one_gradient(equation, operands, gradient, i, contract) if need else None
        for i, need in enumerate(wanted)
    ]
