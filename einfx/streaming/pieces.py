"""Cutting a copy into parts: small ones, between which it can be stopped, and stretches of memory.

Example:
    >>> import torch
    >>> whole = torch.zeros(6, 100)
    >>> [part.shape for part, _ in pieces(whole, whole, 1000)]
    [torch.Size([2, 100]), torch.Size([2, 100]), torch.Size([2, 100])]
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["is_stretch", "pieces"]


def pieces(
    target: Tensor, source: Tensor, most_bytes: int, scattered: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts in which a tensor is copied, each of so many bytes at most.

    Args:
        target: where to.
        source: what, of the same shape. Where one of both is dense, so are its parts.
        most_bytes: of a part; a single element may take more.
        scattered: how many elements a part may have that isn't one stretch of memory in both; any number for
            None.

    Example:
        >>> import torch
        >>> rows = torch.zeros(4, 6)[:, :3]
        >>> [part.shape for part, _ in pieces(torch.zeros(4, 3), rows, 1000, scattered=7)]
        [torch.Size([2, 3]), torch.Size([2, 3])]
    """
    count = target.numel()
    if count == 0:
        return
    small = count * target.itemsize <= most_bytes
    if count == 1 or (small and (scattered is None or count < scattered or is_stretch(target, source))):
        yield target, source
        return
    dense = target if _is_dense(target) else source
    strides = dense.stride()
    dim = max((d for d in range(target.dim()) if target.shape[d] > 1), key=lambda d: strides[d])
    size = target.shape[dim]
    most = (scattered or count) - 1 if small else most_bytes // target.itemsize
    step = max(1, most // (count // size))
    for start in range(0, size, step):
        length = min(step, size - start)
        parts = target.narrow(dim, start, length), source.narrow(dim, start, length)
        yield from pieces(*parts, most_bytes, scattered)


def is_stretch(target: Tensor, source: Tensor) -> bool:
    """Whether two tensors are the same stretch of bytes, in one place and in another.

    Example:
        >>> import torch
        >>> a = torch.zeros(6, 4)
        >>> is_stretch(a.T[:, 2:4], a[:2].T), is_stretch(a[:, :2], a[:, 2:]), is_stretch(a, a.double())
        (True, False, False)
    """
    if target.dtype != source.dtype or source.is_conj() or source.is_neg():
        return False
    strides = zip(target.shape, target.stride(), source.stride(), strict=True)
    return _is_dense(target) and all(size == 1 or one == other for size, one, other in strides)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in whatever order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
