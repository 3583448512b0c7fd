"""Contractions of tensors: ``einsum`` and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .equation import Equation
from .errors import OperandError, UsageError
from .planning import Plan, plan
from .program import call, compile_program, emit_plan, run_pairwise

__all__ = ["contract_expression", "contract_path", "einsum", "tensordot"]

_PROGRAMS: dict[Any, Any] = {}
"""What einsum knows of a call that it has seen: how often, then its compiled program."""

MAX_PROGRAMS = 4096


def einsum(equation: Any, *operands: Any, optimize: Any = "auto", **options: Any) -> Tensor:
    """Contract tensors as an equation says.

    Args:
        equation: text such as ``"ij,jk->ik"``, with all that torch.einsum and opt_einsum accept: an implicit
            output, spaces, an ellipsis, repeated labels. Or the first operand of the interleaved form
            ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.
        operands: tensors, or one list of them. A dimension of size 1 broadcasts.
        optimize: the order of pairwise steps: a strategy's name, a path, an opt_einsum PathOptimizer or a
            cotengra tree; see :func:`einfx.planning.plan`.
        options: none; keywords of opt_einsum that mean something else here are refused with a hint.

    Returns:
        The contraction; differentiable, with the dtype that torch.einsum gives.

    Raises:
        EquationError: the equation can't be read.
        OperandError: the operands don't fit it.
        PlanError: ``optimize`` can't be used.
        UsageError: an unknown keyword.

    Example:
        A product of matrices, of batches of them, a trace, a chain:

        >>> a, b, c = torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 5)
        >>> einsum("ij,jk->ik", a, b).shape
        torch.Size([2, 4])
        >>> einsum("...ij,...jk", torch.ones(7, 2, 3), b).shape
        torch.Size([7, 2, 4])
        >>> einsum("ii", torch.eye(3)).item()
        3.0
        >>> einsum("ij,jk,kl->il", a, b, c)[0, 0].item()
        12.0
    """
    if options:
        _refuse(options)
    key: Any = None
    if type(equation) is str and not has_torch_function(operands) and not _is_special():
        try:
            key = (equation, optimize, tuple([(x.shape, x.stride(), x.dtype, x.device) for x in operands]))
            program = _PROGRAMS.get(key)
        except (AttributeError, TypeError):
            key = None
        else:
            if program.__class__ is not int and program is not None:
                return program(*operands)  # type: ignore[no-any-return]
    return _einsum(equation, operands, optimize, key)


def _einsum(equation: Any, operands: Sequence[Any], optimize: Any, key: Any) -> Tensor:
    inputs, tensors, read = _arguments(equation, operands)
    if has_torch_function(tensors):
        return handle_torch_function(einsum, tensors, equation, *operands, optimize=optimize)  # type: ignore
    parsed = read()
    shapes = [tuple(x.shape) for x in tensors]
    parsed.sizes(shapes)
    dtype, device = tensors[0].dtype, tensors[0].device
    if any(x.dtype != dtype or x.device != device for x in tensors) and len(tensors) > 0:
        return torch.functional.einsum(str(parsed), *tensors)
    hints = [tuple(_hint(n) for n in shape) for shape in shapes]
    planned = plan(parsed, hints, dtype=dtype, device=device, optimize=optimize)
    if torch._C._is_any_autocast_enabled() or torch._C._get_tracing_state() is not None:
        return run_pairwise(planned, tensors)
    symbolic = torch.compiler.is_compiling() or any(isinstance(n, torch.SymInt) for s in shapes for n in s)
    if symbolic:
        return emit_plan(call, planned, tensors, guarded=True)  # type: ignore[no-any-return]
    strides = [x.stride() for x in tensors]
    if key is not None:
        if _PROGRAMS.get(key) == 1:
            program = _PROGRAMS[key] = compile_program(planned, strides)
            return program(*tensors)
        while len(_PROGRAMS) >= MAX_PROGRAMS:
            _PROGRAMS.pop(next(iter(_PROGRAMS)), None)
        _PROGRAMS[key] = 1
    return emit_plan(call, planned, tensors, guarded=False, strides=strides)  # type: ignore[no-any-return]


def contract_path(
    equation: Any,
    *shapes: Any,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    optimize: Any = "auto",
) -> Plan:
    """How a contraction would be computed.

    Args:
        equation: text, as in :func:`einsum`.
        shapes: the shape of each operand, or the operand.
        dtype: of the operands.
        device: where it is computed.
        optimize: as in :func:`einsum`.

    Returns:
        The plan; ``print`` shows each step with its kernel and its cost.

    Example:
        >>> p = contract_path("ij,jk,kl->il", (10, 20), (20, 30), (30, 5))
        >>> p.path, p.flops
        (((1, 2), (0, 1)), 8000)
    """
    sizes = [tuple(x.shape) if isinstance(x, Tensor) else tuple(x) for x in shapes]
    parsed = Equation.parse(equation, [len(s) for s in sizes])
    return plan(parsed, sizes, dtype=dtype, device=device, optimize=optimize)


def contract_expression(
    equation: str, *shapes: Any, constants: Mapping[int, Tensor] | Sequence[int] = (), optimize: Any = "auto"
) -> Callable[..., Tensor]:
    """A contraction planned once and called often."""
    raise NotImplementedError


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Contract the last dimensions of ``a`` with the first of ``b``, or pairs of them that ``dims`` names.

    Args:
        a: the first tensor.
        b: the second tensor.
        dims: how many dimensions, or two sequences of dimensions: of ``a`` and of ``b``.

    Example:
        >>> tensordot(torch.ones(2, 3, 4), torch.ones(3, 4, 5)).shape
        torch.Size([2, 5])
    """
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        first, second = list(range(a.dim() - dims, a.dim())), list(range(dims))
    else:
        first, second = ([x] if isinstance(x, int) else list(x) for x in dims)
    if len(first) != len(second):
        raise OperandError(f"tensordot: dims {dims} names {len(first)} dimension(s) of a, but {len(second)} of b")
    left = list(range(a.dim()))
    right = list(range(a.dim(), a.dim() + b.dim()))
    for i, j in zip(first, second, strict=True):
        right[j] = left[i]
    output = [x for x in left + right if (x in left) != (x in right)]
    return einsum(a, left, b, right, output)


def _arguments(
    equation: Any, operands: Sequence[Any]
) -> tuple[Any, tuple[Any, ...], Callable[[], Equation]]:
    if isinstance(equation, str):
        tensors: Sequence[Any] = operands
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            tensors = operands[0]
        return None, tuple(tensors), lambda: Equation.parse(equation, [x.dim() for x in tensors])
    everything = [equation, *operands]
    output = list(everything.pop()) if len(everything) % 2 else None
    tensors, labels = everything[::2], [list(x) for x in everything[1::2]]
    return None, tuple(tensors), lambda: Equation.from_sublists(labels, output, [x.dim() for x in tensors])


def _is_special() -> bool:
    return (
        torch._C._is_any_autocast_enabled()
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
    )


def _hint(size: Any) -> int:
    if isinstance(size, int):
        return size
    return int(size.node.hint)


def _refuse(options: dict[str, Any]) -> None:
    raise UsageError(f"einsum has no keyword {next(iter(options))!r}")
