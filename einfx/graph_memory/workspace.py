"""What operations of torch allocate inside, beside their results, where that is known.

Most allocate nothing; some copy operands that aren't laid out as their kernel likes it, or in another dtype.
A matrix product packs its operands into blocks that are kept and of fixed size, which counts nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["workspace_bytes"]

_NOTHING = frozenset(
    """
    _adaptive_avg_pool2d _conj _fused_dropout _local_scalar_dense _reshape_alias _to_copy _unsafe_view
    adaptive_max_pool2d alias amax amin any all arange argmax argmin as_strided avg_pool1d avg_pool2d
    avg_pool3d bernoulli bernoulli_ bucketize clone constant_pad_nd copy_ count_nonzero cummax cummin
    cumprod cumsum detach diag_embed diagonal diagonal_copy dot embedding empty empty_like empty_strided
    exponential_ expand eye fill_ flip full full_like gather glu histc index index_add index_copy
    index_fill index_put index_put_ index_select lift lift_fresh lift_fresh_copy linalg_vector_norm
    linspace masked_fill max max_pool2d_with_indices max_pool3d_with_indices min mul_ multinomial narrow
    native_dropout new_empty new_empty_strided new_full new_ones new_zeros nll_loss_forward norm normal_
    ones ones_like permute pixel_shuffle rand rand_like randint randint_like randn randn_like randperm
    reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d
    resize_ roll scalar_tensor scatter scatter_ scatter_add scatter_add_ scatter_reduce searchsorted
    select set_ slice split split_with_sizes squeeze stack std std_mean t topk trace transpose tril triu
    unbind unfold uniform_ unsafe_split unsqueeze upsample_bilinear2d upsample_nearest1d
    upsample_nearest2d var var_mean view view_as_complex view_as_real view_copy zero_ zeros zeros_like
    """.split()
)
"""Operations that allocate nothing but their results."""

_CONTIGUOUS = frozenset(
    """
    _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _softmax native_batch_norm
    native_group_norm native_layer_norm
    """.split()
)
"""Those that copy an operand that isn't contiguous."""

_PRODUCTS = frozenset("addbmm addmm addmv addr baddbmm bmm ger mm mv vdot".split())

_HALF = (torch.float16, torch.bfloat16)

_ATTENTION_BYTES = 1 << 20
"""What a thread takes of torch's attention in blocks."""


def workspace_bytes(operator: Any, arguments: Sequence[Any], result: Any) -> int | None:
    """What an operator of aten allocates inside.

    Args:
        operator: an overload, as a dispatch mode sees it.
        arguments: its positional arguments, and those by keyword; tensors may be without data.
        result: what it returned.

    Returns:
        Bytes beside the result; None where that isn't known.

    Example:
        >>> x = torch.ones(10, 20)
        >>> workspace_bytes(torch.ops.aten.mul.Tensor, (x, x), x)
        0
        >>> workspace_bytes(torch.ops.aten.add.Tensor, (x, x.double()), x.double())
        1600
        >>> workspace_bytes(torch.ops.aten.sort.default, (x,), x)
        2400
    """
    name = operator.overloadpacket.__name__
    tensors = [x for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)]
    if operator.namespace == "prim":
        return 0
    if operator.namespace != "aten":
        return None
    if name == "cat" or _is_pointwise(operator.overloadpacket):
        return _converted(name, tensors, result)
    if name.removesuffix("_") in _NOTHING or name in _NOTHING or operator.is_view:
        return 0
    if name in _CONTIGUOUS:
        return sum(_bytes(x) for x in tensors if x.dim() > 1 and not x.is_contiguous())
    if name in _PRODUCTS:
        half = [x for x in (*tensors, result) if x.dtype in _HALF]
        copied = [x for x in tensors if x.dim() > 1 and not _is_matrix(x)]
        wide: int = 4 * sum(x.numel() for x in half)
        return wide + sum(_bytes(x) for x in copied)
    rule = _RULES.get(name)
    return None if rule is None else rule(arguments, tensors, result)


@lru_cache(maxsize=4096)
def _is_pointwise(packet: Any) -> bool:
    """Whether an operation is elementwise; torch doesn't say so of all of its overloads."""
    return any(torch.Tag.pointwise in getattr(packet, name).tags for name in packet.overloads())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize


def _converted(name: str, tensors: Sequence[Tensor], result: Any) -> int:
    """Operands of an elementwise operation in the dtype in which it is computed."""
    if name == "abs" and tensors[0].is_complex():
        return _bytes(tensors[0])
    kinds = [x for x in tensors if not (name == "where" and x.dtype == torch.bool)]
    if name in ("clone", "copy", "copy_") or len({x.dtype for x in kinds}) < 2:
        return 0
    dtype = kinds[0].dtype
    for other in kinds[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    made = [x for x in kinds if x.dim() and x.dtype != dtype]
    if name.endswith("_") and result.dtype != dtype:
        made.append(result)
    return sum(x.numel() * dtype.itemsize for x in made)


def _is_matrix(tensor: Tensor) -> bool:
    """Whether a matrix product takes it as it lies: rows or columns of neighbours, none overlapping."""
    rows, columns = tensor.shape[-2:]
    across, along = tensor.stride()[-2:]
    plain = (along == 1 or columns == 1) and (across >= columns or rows == 1)
    turned = (across == 1 or rows == 1) and (along >= rows or columns == 1)
    return plain or turned


def _convolution(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    """Operands and result in the layout of the kernel, or patches of all of the batch."""
    data, kernel = tensors[:2]
    everything = _bytes(data) + _bytes(kernel) + _bytes(result)
    few = data.shape[0] == 1 or min(kernel.shape[:2]) < 4
    if data.dtype == torch.float32 and not few:
        return everything
    patches = data.shape[0] * data.shape[1] * prod(kernel.shape[2:]) * prod(result.shape[2:])
    return int(everything + patches * data.dtype.itemsize)


def _logsumexp(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    """The exponentials, and the maxima twice."""
    return _bytes(tensors[0]) + 2 * _bytes(result)


def _sorted(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    """A copy, and its indices."""
    return _bytes(tensors[0]) + 8 * tensors[0].numel()


def _attention(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    return torch.get_num_threads() * _ATTENTION_BYTES + sum(_bytes(x) for x in tensors if x.stride(-1) != 1)


def _total(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    """The operand in the dtype in which it is added up."""
    before, after = tensors[0].dtype, result.dtype
    whole = not (before.is_floating_point or before.is_complex)
    return tensors[0].numel() * after.itemsize if whole and before != after else 0


def _mean(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    """The operand in single precision, where it is of half."""
    return 4 * tensors[0].numel() if tensors[0].dtype in _HALF else 0


def _loss(arguments: Sequence[Any], tensors: Sequence[Tensor], result: Any) -> int:
    return 2 * _bytes(tensors[0])


_RULES: dict[str, Callable[[Sequence[Any], Sequence[Tensor], Any], int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "convolution": _convolution,
    "logsumexp": _logsumexp,
    "mean": _mean,
    "median": _sorted,
    "mse_loss": _loss,
    "prod": _total,
    "sort": _sorted,
    "sum": _total,
}
