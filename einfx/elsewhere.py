"""Contractions whose operands lie elsewhere than where they are computed: answering a call.

=======================================  ===============================================================
operands                                 are
=======================================  ===============================================================
on the device                            used where they lie
in host memory, the device is a GPU      streamed in blocks within the limit
in mapped files, under a limit           streamed in blocks within the limit, if it leaves room for them;
                                         used where they lie if they are in memory already
of what can't be cut into blocks         moved whole: half precision, an argmax, torch.func, a recording
=======================================  ===============================================================

Where all operands lie in host memory, so do the result and their gradients. An operand that is given twice is
loaded once where both need the same block of it. Of a file on a CPU, blocks that lie side by side aren't
copied: a thread has their pages read, ahead of what is computed. Second derivatives over semirings need
operands whole where is computed, which files on a CPU needn't be moved for.

Ctrl-C ends a contraction within a block: nothing was written but what einfx allocated, and the thread ends
first, or within a second. None of its objects has a finalizer, in which Python would lose the interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .dispatch import as_written, call_name, contract, read_equation
from .errors import FileError, MemoryLimitError, OperandError, UsageError
from .kernels.batching import has_tangents
from .machine import accumulation_dtype
from .operands import as_tensor, is_array, is_resident, mapped
from .options import Options, read_device
from .pattern import IndexPattern
from .plans import size_text
from .progress import Choice, check_choice
from .semiring_dispatch import contract_over, promoted, sees_numbers
from .slicing import is_sliceable
from .slicing.autograd.streamed import Elsewhere, contract_elsewhere
from .streaming.movers import PIECE_BYTES
from .streaming.pieces import pieces

__all__ = ["contract_anywhere", "converted", "is_elsewhere", "needs_conversion"]

SHARE = 0.8
"""How much of a GPU's free memory is the limit where none is given."""


def is_elsewhere(tensors: Sequence[Any], options: Options) -> bool:
    """Whether a call without ``device`` has operands in mapped files, and a limit."""
    if options.memory_limit is None or not all(isinstance(x, Tensor) for x in tensors):
        return False
    return all(x.device.type == "cpu" for x in tensors) and any(_on_disk(tensors))


def _on_disk(operands: Sequence[Tensor]) -> tuple[bool, ...]:
    """Which operands are read from files; pages that are in memory are computed with where they are."""
    return tuple(there and not is_resident(x) for x, there in zip(operands, mapped(operands), strict=True))


def contract_anywhere(
    token: Any,
    tensors: Sequence[Any],
    optimize: Any,
    options: Options,
    return_argmax: bool,
    device: str | torch.device | None,
    progress: Choice,
) -> Any:
    """Contract tensors wherever they lie.

    Args:
        token: what :func:`.dispatch.read_equation` reads.
        tensors: the operands.
        optimize: as in :func:`einfx.planning.plan`.
        options: over which semiring, and how.
        return_argmax: whether to return the places of what the sums select too.
        device: where is computed; where the operands are if None.
        progress: as in :func:`einfx.einsum`.

    Raises:
        EquationError, OperandError, PlanError, MemoryLimitError, UsageError: as :func:`einfx.einsum`.
    """
    call = call_name(token)
    check_choice(progress)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            return contract_over(token, tensors, optimize, options, return_argmax)
    if not tensors or device is None:
        target = tensors[0].device if tensors else torch.device("cpu")
    else:
        target = _device(device)
    # From one device to another there is no way through blocks.
    options = _beside([x for x in tensors if x.device.type != "cpu" and x.device != target], options, target)
    operands = [x if x.device.type == "cpu" else x.to(target) for x in tensors]
    there = tuple(x.device != target for x in operands)
    if target.type == "cpu" and options.memory_limit is not None:
        there = _on_disk(operands)
    elif any(there) and options.memory_limit is None and target.type == "cuda":
        options = replace(options, memory_limit=_default_limit(target))
    if options.memory_limit is None or not (any(there) or progress):
        return _in_place(token, operands, optimize, options, return_argmax, target)
    with torch.autocast(target.type, enabled=False):
        dtype = promoted(operands)
        stand_in = torch.empty(0, dtype=dtype)
        plain = not return_argmax and sees_numbers(operands) and not has_tangents(operands)
        if (
            not plain
            or target.type not in ("cpu", "cuda")
            # Blocks that are loaded are logarithms, in the dtype that sums are taken in.
            or (bool(options.linear_operands) and any(there))
            or accumulation_dtype(dtype) != dtype
            or not is_sliceable([stand_in, *operands], options)
        ):
            return _in_place(token, operands, optimize, options, return_argmax, target)
        where = Elsewhere(target, dtype, there, target.type != "cpu", progress)
        return _streamed(call, token, operands, optimize, options, where)


def _streamed(
    call: str, token: Any, operands: Sequence[Tensor], optimize: Any, options: Options, where: Elsewhere
) -> Tensor:
    try:
        options.semiring.check(*[x.new_empty(0) for x in operands])
        if options.semiring.domain is not None:
            # In parts, since a check takes memory of its own.
            for operand in operands:
                for part, _ in pieces(operand, operand, PIECE_BYTES):
                    options.semiring.domain(part)
    except OperandError as error:
        raise OperandError(f"{call}: {error}") from None
    try:
        equation = read_equation(token, [x.dim() for x in operands])
        pairs = [*zip(operands, where.operands, strict=True)]
        converted = [x for x, there in pairs if not there and x.dtype != where.dtype]
        limited = _beside(converted, options, where.device, where.dtype)
        here = [x if there else x.to(where.dtype) for x, there in pairs]
        return contract_elsewhere(equation, here, optimize, limited, where)
    except OperandError as error:
        raise as_written(token, error) from None
    except FileError as error:
        raise FileError(error.errno, f"{call}: {error.strerror}") from None
    except MemoryLimitError:
        if where.stores or not any(where.operands):
            raise
        # Pages of a file can be read where they are, though not ahead.
        in_place: Tensor = contract_over(token, operands, optimize, options)
        return in_place


def _in_place(
    token: Any,
    operands: Sequence[Tensor],
    optimize: Any,
    options: Options,
    return_argmax: bool,
    target: torch.device,
) -> Any:
    """Contract where all operands are moved to first."""
    options = _beside([x for x in operands if x.device != target], options, target)
    arrives = any(x.device != target for x in operands)
    here = [x.to(target) for x in operands]
    if options.is_plain and not return_argmax:
        found: Any = contract(token, here, optimize)
    else:
        found = contract_over(token, here, optimize, options, return_argmax)
    if not arrives or any(x.device.type != "cpu" for x in operands):
        return found
    return tuple(x.cpu() for x in found) if isinstance(found, tuple) else found.cpu()


def _beside(
    whole: Sequence[Tensor], options: Options, device: torch.device, dtype: torch.dtype | None = None
) -> Options:
    """The options with what is left of the limit beside copies of whole operands.

    Raises:
        MemoryLimitError: nothing is.
    """
    taken = sum(x.numel() * (dtype or x.dtype).itemsize for x in whole)
    limit = options.memory_limit
    if not taken or limit is None:
        return options
    if taken >= limit:
        raise MemoryLimitError(
            f"einsum of {', '.join(str(tuple(x.shape)) for x in whole)}, not to be cut into blocks: "
            f"memory_limit={limit} ({size_text(limit)}) is too little for copies of these, of {taken} "
            f"bytes ({size_text(taken)}) on {device}{f' in {dtype}' * (dtype is not None)}"
        )
    return replace(options, memory_limit=limit - taken)


def needs_conversion(tensors: Sequence[Any], device: str | torch.device | None, strip_exponent: bool) -> bool:
    """Whether a call has operands that become others first: NumPy arrays, or tensors that are moved whole."""
    if torch.compiler.is_compiling():
        return device is not None
    if device is not None and (strip_exponent or any(type(x) is IndexPattern for x in tensors)):
        return True
    # A loop, since it costs every call half of what a generator does.
    for tensor in tensors:  # noqa: SIM110
        if type(tensor) is not Tensor and is_array(tensor):
            return True
    return False


def converted(
    einsum: Callable[..., Any], equation: Any, operands: Sequence[Any], keywords: dict[str, Any]
) -> Any:
    """What einsum returns for operands that become others first.

    Args:
        einsum: what is called then.
        equation: its first argument.
        operands: its further ones, NumPy arrays among them; tensors are moved where a program is compiled, or
            where the exponent is stripped or there are index patterns, since these aren't cut into blocks.
        keywords: of the call.

    Raises:
        OperandError: there are no tensors like an array.
    """
    compiling = torch.compiler.is_compiling()
    whole = compiling or keywords["strip_exponent"] or _has_pattern((equation, *operands))
    device = keywords.pop("device") if whole else None
    if device is not None and not compiling:
        device = _device(device)
    call = call_name(equation)
    readonly: list[Tensor] = []
    on_host: list[bool] = []

    def change(value: Any) -> Any:
        if not compiling and is_array(value):
            tensor = as_tensor(value, f"{call}: operand {len(on_host)}")
            if not value.flags.writeable:
                readonly.append(tensor)
            value = tensor
        if isinstance(value, Tensor):
            on_host.append(value.device.type == "cpu")
            return value if device is None else value.to(device)
        return value

    found = einsum(*[_changed(x, change) for x in (equation, *operands)], **keywords)
    if device is not None and all(on_host):
        found = tuple(x.cpu() for x in found) if isinstance(found, tuple) else found.cpu()
    return _unshared(found, readonly)


def _has_pattern(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_pattern(x) for x in value)
    return type(value) is IndexPattern


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    return [_changed(x, change) for x in value] if isinstance(value, (list, tuple)) else change(value)


def _unshared(result: Any, readonly: Sequence[Tensor]) -> Any:
    """A result that may be written: a copy, where it's a view of an array that may not."""
    if not readonly or not isinstance(result, Tensor):
        return result
    memory = _address(result)
    return result.clone() if any(_address(x) == memory for x in readonly) else result


def _address(tensor: Tensor) -> int:
    """Where the memory of a tensor begins, under torch.func too."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage().data_ptr()


def _device(device: str | torch.device) -> torch.device:
    """Where is computed.

    Raises:
        UsageError: torch can't compute there.
    """
    found = read_device(device)
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type == "meta":
        raise UsageError(
            "device='meta' holds no numbers, so nothing can be computed there; for shapes alone, give "
            "operands of that device, or call einfx.contract_path"
        )
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device={str(device)!r}: torch sees no GPU here (torch.cuda.is_available())")
        if found.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        if found.index >= torch.cuda.device_count():
            raise UsageError(f"device={str(device)!r}: torch sees {torch.cuda.device_count()} GPU(s) here")
        return found
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise UsageError(f"device={str(device)!r}: torch can't compute there ({message})") from None
    return found


def _default_limit(device: torch.device) -> int:
    """A share of what is free on a GPU, and of what torch keeps there unused."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limit = int(SHARE * (free + kept))
    # Few different limits, so that plans are found again.
    return limit >> max(limit.bit_length() - 4, 0) << max(limit.bit_length() - 4, 0)
