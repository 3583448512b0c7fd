"""The functions that generated code calls where torch has none of its own.

They read sizes when they run, so they're right for every size for which the einsum is: none, one, more,
and a dimension of size 1 where the other operand has more. TorchScript compiles them, torch.compile and
torch.export trace through them, and torch.fx records a call of them as one node. Every one is ordinary
torch code, differentiable as often as one likes.

Operands of elementwise helpers are aligned from the right, as in broadcasting; summed dimensions are
counted from the right (-1 is the last), so that a missing leading dimension changes nothing.
"""

from __future__ import annotations

import torch
from torch import _VF, Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

__all__ = [
    "contiguous",
    "contract",
    "matmul",
    "matvec",
    "mm",
    "multiply",
    "multiply_sum",
    "squeezed_einsum",
    "tensordot",
    "unrolled_multiply_sum",
]


def contiguous(a: Tensor) -> Tensor:
    """``a`` itself where it is contiguous, otherwise a contiguous copy."""
    if has_torch_function_unary(a):
        return handle_torch_function(contiguous, (a,), a)
    return a.contiguous()


def mm(
    a: Tensor,  # shape: (i, k)
    b: Tensor,  # shape: (k, j)
) -> Tensor:  # shape: (i, j)
    """A product of matrices; one of the two sizes of ``k`` may be 1.

    Example:
        >>> mm(torch.ones(2, 3), torch.ones(1, 4))[0]
        tensor([3., 3., 3., 3.])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(mm, (a, b), a, b)
    if a.shape[1] != b.shape[0]:
        if a.shape[1] == 1:
            b = b.sum(0, keepdim=True)
        else:
            a = a.sum(1, keepdim=True)
    return torch.mm(a, b)


def matmul(
    a: Tensor,  # shape: (..., i, k)
    b: Tensor,  # shape: (..., k, j)
) -> Tensor:  # shape: (..., i, j)
    """A product of batches of matrices; sizes of the batch broadcast, and so do those of ``k``.

    Example:
        >>> matmul(torch.ones(5, 2, 3), torch.ones(1, 3, 4)).shape
        torch.Size([5, 2, 4])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(matmul, (a, b), a, b)
    if a.shape[-1] != b.shape[-2]:
        if a.shape[-1] == 1:
            b = b.sum(-2, keepdim=True)
        else:
            a = a.sum(-1, keepdim=True)
    if a.dim() == 3 and b.dim() == 3 and a.shape[0] == b.shape[0]:
        return _bmm(a, b)
    return torch.matmul(a, b)


def _bmm(
    a: Tensor,  # shape: (b, i, k)
    b: Tensor,  # shape: (b, k, j)
) -> Tensor:  # shape: (b, i, j)
    """torch.bmm, with vectors as rows, to the left of the matrices: up to 2 times faster."""
    if b.shape[2] == 1 and a.shape[1] > 1:
        rows = b.reshape(b.shape[0], 1, b.shape[1])
        return torch.bmm(rows, a.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(a, b)


def matvec(
    a: Tensor,  # shape: (..., i, k)
    b: Tensor,  # shape: (..., k)
) -> Tensor:  # shape: (..., i)
    """A product of batches of matrices and of vectors, broadcasting as :func:`matmul` does.

    Example:
        >>> matvec(torch.ones(5, 2, 3), torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(matvec, (a, b), a, b)
    if a.dim() == 2 and b.dim() == 1 and a.shape[1] == b.shape[0]:
        return torch.mv(a, b)
    return matmul(a, b.unsqueeze(-1)).squeeze(-1)


def contract(
    a: Tensor,  # shape: (*batch, *rows, *summed)
    b: Tensor,  # shape: (*batch, *summed, *columns)
    batch: int,
    summed: int,
) -> Tensor:  # shape: (*batch, *rows, *columns)
    """A product of batches of matrices whose rows, columns and summed index have several dimensions each.

    Args:
        a: the first operand.
        b: the second operand.
        batch: the number of batch dimensions; they broadcast.
        summed: the number of summed dimensions; they broadcast.

    Example:
        >>> contract(torch.ones(7, 2, 3, 4), torch.ones(7, 3, 4, 5), 1, 2).shape
        torch.Size([7, 2, 5])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(contract, (a, b), a, b, batch, summed)
    first = a.dim() - summed
    for i in range(summed):
        if a.shape[first + i] != b.shape[batch + i]:
            if a.shape[first + i] == 1:
                b = b.sum(batch + i, keepdim=True)
            else:
                a = a.sum(first + i, keepdim=True)
    left = a.flatten(first) if summed > 1 else a
    right = b.flatten(batch, batch + summed - 1) if summed > 1 else b
    left = left.unsqueeze(batch) if first == batch else left.flatten(batch, first - 1)
    right = right.unsqueeze(-1) if b.dim() == batch + summed else right.flatten(batch + 1)
    if batch == 1 and a.shape[0] == b.shape[0]:
        result = _bmm(left, right)
    else:
        result = torch.matmul(left, right)
    return result.view(result.shape[:batch] + a.shape[batch:first] + b.shape[batch + summed :])


def tensordot(a: Tensor, b: Tensor, summed_of_a: list[int], summed_of_b: list[int]) -> Tensor:
    """The sum over pairs of dimensions of ``a`` and ``b``; sizes of a pair are equal, or one of them is 1.

    Example:
        >>> tensordot(torch.ones(3, 2, 4), torch.ones(5, 3, 1), [0, 2], [1, 2]).shape
        torch.Size([2, 5])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(tensordot, (a, b), a, b, summed_of_a, summed_of_b)
    result: Tensor = _VF.tensordot(a, b, summed_of_a, summed_of_b)  # type: ignore[attr-defined]
    return result


def squeezed_einsum(
    a: Tensor,
    b: Tensor,
    equation: str,
    unit_of_a: list[int],
    unit_of_b: list[int],
    squeezed_equation: str,
) -> Tensor:
    """An einsum whose operands have dimensions of size 1, where the other operand has more, left out.

    Without them the einsum often is a matrix product. Where they aren't of size 1, ``equation`` is computed.

    Example:
        >>> squeezed_einsum(torch.ones(1, 3), torch.ones(5, 3), "ab,ab->a", [0], [], "b,ab->a")
        tensor([3., 3., 3., 3., 3.])
    """
    if has_torch_function_variadic(a, b):
        arguments = (a, b, equation, unit_of_a, unit_of_b, squeezed_equation)
        return handle_torch_function(squeezed_einsum, (a, b), *arguments)
    units = True
    for dim in unit_of_a:
        units = units and a.shape[dim] == 1
    for dim in unit_of_b:
        units = units and b.shape[dim] == 1
    if not units:
        return torch.functional.einsum(equation, [a, b])
    if len(unit_of_a) > 0:
        a = a.squeeze(unit_of_a)
    if len(unit_of_b) > 0:
        b = b.squeeze(unit_of_b)
    return torch.functional.einsum(squeezed_equation, [a, b])


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """A broadcast product, whose gradients are contractions; autograd alone would make products of its size.

    Example:
        >>> multiply(torch.ones(2, 1), torch.ones(3)).shape
        torch.Size([2, 3])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(multiply, (a, b), a, b)
    if not torch.compiler.is_compiling() and a.is_cpu and not _rounds_products(a):
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return torch.mul(a, b)
        return _recorded_multiply(a, b)
    return torch.mul(a, b)


def multiply_sum(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    """The sum over ``dims`` (counted from the right) of a broadcast product.

    Large products are made and summed in blocks that stay in the cache. In half precision, and under
    autocast, products are summed before they're rounded, as torch.einsum does.

    Example:
        >>> multiply_sum(torch.ones(3), torch.ones(2, 3), [-1])
        tensor([3., 3.])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(multiply_sum, (a, b), a, b, dims)
    if _rounds_products(a):
        return _einsum_aligned(a, b, dims)
    if not torch.compiler.is_compiling() and a.is_cpu and a.numel() * b.numel() > (1 << 21):
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _blocked_multiply_sum(a, b, dims)
        return _recorded_multiply_sum(a, b, dims)
    return torch.mul(a, b).sum(dims)


def unrolled_multiply_sum(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """:func:`multiply_sum` over one dimension ``dim`` (counted from the right) with few elements.

    The products are added one after the other, so no tensor with the summed dimension is made.

    Example:
        >>> unrolled_multiply_sum(torch.ones(4, 2), torch.ones(4, 2), -1)
        tensor([2., 2., 2., 2.])
    """
    if has_torch_function_variadic(a, b):
        return handle_torch_function(unrolled_multiply_sum, (a, b), a, b, dim)
    if _rounds_products(a):
        return _einsum_aligned(a, b, [dim])
    if max(a.dim(), b.dim()) > min(a.dim(), b.dim()) and min(a.dim(), b.dim()) < -dim:
        return torch.mul(a, b).sum(dim)
    count = a.shape[dim]
    if count != b.shape[dim] or count == 0 or count > 32:
        return torch.mul(a, b).sum(dim)
    if count == 1:
        return torch.mul(a.squeeze(dim), b.squeeze(dim))
    parts = a.unbind(dim)
    others = b.unbind(dim)
    result = torch.mul(parts[0], others[0])
    in_place = _may_accumulate()
    for k in range(1, count):
        if in_place:
            result.addcmul_(parts[k], others[k])
        else:
            result = torch.addcmul(result, parts[k], others[k])
    return result


def _rounds_products(a: Tensor) -> bool:
    """Whether a product of elements of ``a`` is, or under autocast would be, rounded to half precision."""
    if a.dtype == torch.float16 or a.dtype == torch.bfloat16:
        return True
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return torch.is_autocast_cpu_enabled() if a.is_cpu else torch.is_autocast_enabled()
    return a.device.type != "meta" and torch.is_autocast_enabled(a.device.type)


def _recorded_multiply_sum(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    """:func:`_blocked_multiply_sum`, with gradients of its own where autograd alone records it."""
    if not _is_recorded(a, b):
        return _blocked_multiply_sum(a, b, dims)
    from .product_sum import product_sum  # which lowers gradients to these helpers

    return product_sum(_blocked_multiply_sum, a, b, dims)


def _recorded_multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product, with gradients of its own where autograd alone records it."""
    if not _is_recorded(a, b):
        return torch.mul(a, b)
    from .product_sum import product_sum  # which lowers gradients to these helpers

    return product_sum(_product, a, b, [])


def _is_recorded(a: Tensor, b: Tensor) -> bool:
    """Whether autograd alone records what is done with two tensors of one dtype."""
    plain = torch._C._functorch.maybe_current_level() is None and torch._C._get_tracing_state() is None
    return plain and torch.is_grad_enabled() and (a.requires_grad or b.requires_grad) and a.dtype == b.dtype


def _product(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    return torch.mul(a, b)


def _may_accumulate() -> bool:
    """Whether sums may be accumulated in place: torch.func.vmap is slow at it, compilers undo it."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is None


def _einsum_aligned(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    """What :func:`multiply_sum` computes, by torch.einsum."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    count = max(a.dim(), b.dim())
    kept = ""
    for i in range(count):
        if i - count not in dims:
            kept = kept + letters[i]
    left = letters[count - a.dim() : count]
    right = letters[count - b.dim() : count]
    return torch.functional.einsum(left + "," + right + "->" + kept, [a, b])


def _blocked_multiply_sum(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    """:func:`multiply_sum` in blocks, which never make a large product.

    Blocks lie next to one another in memory, and so do those that gradients are put together from.
    """
    a, b = torch.broadcast_tensors(a, b)
    blocks = a.numel() // 131072
    if blocks < 16:
        return torch.mul(a, b).sum(dims)
    order = _block_order(a, b, dims)
    a = a.permute(order)
    b = b.permute(order)
    rank = a.dim()
    summed: list[int] = []
    kept: list[int] = []
    for dim in order:
        if dim - rank not in dims:
            kept.append(dim)
    for position in range(rank):
        if order[position] - rank in dims:
            summed.append(position)
    result = _over_blocks(a, b, summed, blocks)
    back: list[int] = []
    for dim in range(rank):
        if dim - rank not in dims:
            back.append(kept.index(dim))
    return result.permute(back)


def _block_order(a: Tensor, b: Tensor, dims: list[int]) -> list[int]:
    """The dimensions of two tensors of one shape in the order in which they're cut into blocks.

    Those along which neighbours lie far apart come first, of these the ones that stay: sums are then made
    within a block.
    """
    order: list[int] = []
    ranks: list[int] = []
    for dim in range(a.dim()):
        reach = a.stride(dim) + b.stride(dim) if a.shape[dim] > 1 else 0
        if reach >= 16 and dim - a.dim() not in dims:
            reach = reach + (1 << 60)
        place = 0
        for rank in ranks:
            if rank >= reach:
                place = place + 1
        order.insert(place, dim)
        ranks.insert(place, reach)
    return order


def _over_blocks(a: Tensor, b: Tensor, dims: list[int], blocks: int) -> Tensor:
    """The sum over ``dims`` of a product, in about so many blocks of the first one or two dimensions."""
    inner = 1
    if a.shape[0] < blocks and a.dim() > 1:
        inner = min(blocks // a.shape[0], a.shape[1])
    totals: list[Tensor] = []
    size = max(1, a.shape[0] // blocks)
    for rows, other_rows in zip(a.split(size, 0), b.split(size, 0)):  # noqa: B905  TorchScript has no strict
        parts: list[Tensor] = []
        if inner == 1:
            parts.append(torch.mul(rows, other_rows).sum(dims))
        else:
            width = max(1, a.shape[1] // inner)
            for part, other in zip(rows.split(width, 1), other_rows.split(width, 1)):  # noqa: B905
                _gather(parts, torch.mul(part, other).sum(dims), 1 in dims)
        if len(parts) > 1:
            parts = [torch.cat(parts, 0 if 0 in dims else 1)]
        _gather(totals, parts[0], 0 in dims)
    return totals[0] if len(totals) == 1 else torch.cat(totals, 0)


def _gather(parts: list[Tensor], part: Tensor, added: bool) -> None:
    """Put a part beside the others, or add it to the one that is there."""
    if added and len(parts) > 0:
        parts[0] = parts[0] + part
    else:
        parts.append(part)
