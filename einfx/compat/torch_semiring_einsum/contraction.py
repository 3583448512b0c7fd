"""From a call of this package to einfx's contraction, and to its derivative.

A block size bounds memory: that of the terms in a block of that range, and of the output twice. einfx
contracts in pairs, by matrix products where it can, and mostly needs less; then it does just that. Where it
would need more it is held to those bytes, and cuts whichever ranges that takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ...contract import einsum
from ...equation import Equation as Labels
from ...errors import OperandError, UsageError
from ...kernels import blocked
from ...options import Options
from ...planning import plan
from .block_size import BlockSize, checked
from .equation import Equation

__all__ = ["common_dtype", "contract", "gradients", "is_traced", "require_gradient", "require_operands"]

UNNOTICED_BYTES = 1 << 20
"""What any call may take: the interpreter's own allocations hide it."""

WORKSPACE_BYTES = 1 << 18
"""What a contraction under a limit needs beyond its result."""


def contract(
    equation: Equation,
    args: Sequence[Tensor],
    semiring: str,
    block_size: BlockSize,
    *,
    grad_of_neg_inf: float | str = math.nan,
    return_argmax: bool = False,
) -> Any:
    """Contract operands over one of einfx's semirings.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: its operands; their dtypes promote as torch's do.
        semiring: the name of a semiring.
        block_size: the longest range of a summed variable, or an automatic one.
        grad_of_neg_inf: for ``log``, the derivative of a sum that is -inf.
        return_argmax: whether to return where the terms are that a semiring selects.

    Returns:
        The output, contiguous and in memory of its own; with ``return_argmax``, also the indices.

    Raises:
        OperandError: the operands don't fit the equation or the semiring.
        UsageError: ``equation`` isn't compiled, or ``block_size`` can't be one.
    """
    size = checked(block_size)
    way = _way(equation, args, semiring, size, return_argmax)
    if not is_traced(args) and not _have_one_dtype(args):
        dtype = common_dtype(args)
        args = [arg.to(dtype) for arg in args]
    words: dict[str, Any] = {"return_argmax": True} if return_argmax else {}
    if semiring == "log" and not (isinstance(grad_of_neg_inf, float) and math.isnan(grad_of_neg_inf)):
        words["grad_of_neg_inf"] = grad_of_neg_inf
    with _full_precision(args):
        if way.at_once:
            result = blocked.contract(equation.compiled, args, semiring, **words, **way.bounds)
        else:
            result = einsum(equation.text, *args, semiring=semiring, **words, **way.bounds)
    return (_own(result[0], args), _own(result[1], args)) if return_argmax else _own(result, args)


def is_traced(args: Sequence[Any]) -> bool:
    """Whether operands stand for tensors in a program that is being traced.

    Example:
        >>> is_traced((torch.ones(2),))
        False
    """
    for arg in args:
        if not isinstance(arg, Tensor):
            return has_torch_function(args)
    return False


class _Way(NamedTuple):
    """How a call is computed."""

    at_once: bool
    """By the kernel that sums all products at once, rather than along a path."""
    bounds: dict[str, Any]
    """The keywords that keep it within what its block size allows; none where it stays there anyway."""


def _way(
    equation: Equation, args: Sequence[Tensor], semiring: str, block_size: BlockSize, return_argmax: bool
) -> _Way:
    require_operands(equation, args)
    ranges = block_size if isinstance(block_size, int) else None
    if torch.compiler.is_compiling() or is_traced(args):
        return _Way(False, {} if ranges is None else {"block_size": ranges})
    device = args[0].device
    available = 0 if isinstance(block_size, int) else block_size.available_bytes(device)
    recorded = torch.is_grad_enabled() and any(arg.requires_grad for arg in args)
    shapes = tuple([arg.shape for arg in args])
    asked = (args[0].dtype, device.type, semiring, return_argmax, recorded)
    return _chosen_way(equation.compiled, shapes, ranges, available, *asked)


@lru_cache(maxsize=4096)
def _chosen_way(
    labels: Labels,
    shapes: tuple[tuple[int, ...], ...],
    ranges: int | None,
    available: int,
    dtype: torch.dtype,
    device: str,
    semiring: str,
    return_argmax: bool,
    recorded: bool,
) -> _Way:
    sizes = labels.sizes(shapes)
    outputs = math.prod(sizes[x] for x in labels.output)
    terms = outputs * math.prod(sizes[x] for x in labels.summed)
    item = dtype.itemsize + 8 * len(labels.summed) * return_argmax
    if ranges is not None:
        block = math.prod(min(sizes[x], ranges) for x in labels.summed)
        available = outputs * (2 * item + block * dtype.itemsize)
    available = max(available, UNNOTICED_BYTES)
    if item * terms * len(shapes) <= available:
        return _Way(False, {})
    chosen = plan(labels, shapes, dtype=dtype, device=device, options=Options.read(semiring))
    taken = chosen.peak_bytes
    if recorded:  # autograd keeps all that is made
        taken += dtype.itemsize * sum(math.prod(shape) for shape in chosen.value_shapes[len(shapes) :])
    # Places are found, gathered and put together.
    if taken // dtype.itemsize * (dtype.itemsize + 3 * (item - dtype.itemsize)) <= available:
        return _Way(False, {})
    result = item * outputs
    workspace = max(available - result, WORKSPACE_BYTES, result // 4)
    if return_argmax:
        return _Way(True, {"budget_bytes": workspace})
    # There a bound is meant for what is made on the way, which gradients aren't.
    gradients = dtype.itemsize * sum(map(math.prod, shapes)) if recorded else 0
    return _Way(False, {"memory_limit": result + workspace + gradients})


def common_dtype(args: Sequence[Tensor]) -> torch.dtype:
    """The dtype of torch's promotion rules, by which tensors without dimensions count less than others.

    Example:
        >>> scalar = torch.ones((), dtype=torch.float64)
        >>> common_dtype((torch.ones(2), scalar, torch.ones(1, dtype=torch.int8)))
        torch.float32
    """
    if _have_one_dtype(args):
        return args[0].dtype
    first, *rest = {arg.dtype for arg in args if arg.ndim} or {arg.dtype for arg in args}
    wide = reduce(torch.promote_types, rest, first)
    one = torch.empty(1 if any(arg.ndim for arg in args) else (), dtype=wide)
    return reduce(torch.promote_types, [torch.result_type(one, arg) for arg in args if not arg.ndim], wide)


def _have_one_dtype(args: Sequence[Tensor]) -> bool:
    return all(arg.dtype == args[0].dtype for arg in args)


def require_operands(equation: Equation, args: Sequence[Tensor]) -> None:
    """Refuse what isn't a compiled equation with operands that fit.

    Raises:
        OperandError: the operands don't fit.
        UsageError: the equation isn't compiled.
    """
    if not isinstance(equation, Equation):
        kind = type(equation)
        raise UsageError(
            f"the equation is a {kind.__module__}.{kind.__qualname__}; make it with "
            "compile_equation('ij,jk->ik')"
        )
    if not is_traced(args):
        equation.validate_sizes(args)


def gradients(
    equation: Equation,
    args: Sequence[Tensor],
    needs_grad: Sequence[bool],
    grad: Tensor,
    function: Callable[..., Tensor],
) -> list[Tensor | None]:
    """The gradients of a contraction with respect to its operands.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: its operands.
        needs_grad: for each of them, whether its gradient is wanted.
        grad: the gradient of the output.
        function: of the operands; gives the output, differentiably.

    Returns:
        For each operand its gradient, or None.

    Raises:
        OperandError: the operands or ``grad`` don't fit the equation.
        UsageError: ``needs_grad`` has another length than ``args``.
    """
    require_gradient(equation, args, needs_grad, grad)
    again = torch.is_grad_enabled() and any(x.requires_grad for x in (*args, grad))
    # A view each, so that an operand that is given twice has a gradient at each place.
    inputs = [arg.view_as(arg) if again else arg.detach() for arg in args]
    for i, needed in enumerate(needs_grad):
        if needed and not inputs[i].requires_grad:
            inputs[i] = inputs[i].detach().requires_grad_()
    wanted = [x for x, needed in zip(inputs, needs_grad, strict=True) if needed]
    if not wanted:
        return [None] * len(args)
    with torch.enable_grad():
        output = function(*inputs)
    with _full_precision(args):
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=again))
    return [next(found) if needed else None for needed in needs_grad]


def require_gradient(
    equation: Equation, args: Sequence[Tensor], needs_grad: Sequence[bool], grad: Tensor
) -> None:
    """Refuse operands and a gradient of the output that don't fit; raises as :func:`gradients`."""
    require_operands(equation, args)
    if len(needs_grad) != len(args):
        raise UsageError(
            f"needs_grad says for {len(needs_grad)} operand(s) whether they need a gradient, but "
            f"{equation.source!r} has {len(args)}"
        )
    shape = tuple(equation.get_sizes(args, equation.output_variables))
    if tuple(grad.shape) != shape:
        raise OperandError(
            f"the gradient of the output of {equation.source!r} has shape {tuple(grad.shape)}, but the "
            f"output has shape {shape}"
        )


def _full_precision(args: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Without autocast, to which sums of products in place, as clients know them, aren't subject."""
    kind = "meta" if is_traced(args) else args[0].device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _own(result: Tensor, args: Sequence[Tensor]) -> Tensor:
    """The result, in memory that no operand shares: callers write into it, and view it."""
    if len(args) == 1:
        return result.clone(memory_format=torch.contiguous_format)
    # In a traced program it would only part contractions that belong together.
    return result if is_traced(args) else result.contiguous()
