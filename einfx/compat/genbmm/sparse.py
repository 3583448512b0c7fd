"""Banded matrices: the diagonals that aren't empty, as rows, and their products over three semirings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import OperandError
from ...kernels import log, tropical

__all__ = ["BandedMatrix", "banddiag"]


def banddiag(orig_x: Tensor, lu: int, ld: int, fill: float = 0) -> tuple[Tensor, Tensor]:
    """The band of a dense matrix, and the matrix.

    Args:
        orig_x: (B, n, n).
        lu: diagonals above the main one.
        ld: diagonals below it.
        fill: what the band has where it sticks out of the matrix.

    Returns:
        The band (B, n, lu + ld + 1), as ``BandedMatrix`` takes it, and a copy of the matrix. Both are views
        of the same memory.

    Example:
        >>> banddiag(torch.tensor([[[1, 2], [3, 4]]]), 1, 0)[0]
        tensor([[[0, 1],
                 [2, 4]]])
    """
    padded = F.pad(orig_x, (0, 0, lu, ld), value=fill)
    band = padded.unfold(-2, lu + ld + 1, 1).diagonal(0, -3, -2).transpose(-2, -1)
    return band, padded.narrow(-2, lu, orig_x.shape[-2])


class BandedMatrix:
    """A batch of square matrices with few diagonals.

    Row i of ``data`` is column i of the matrix: ``data[:, i, k]`` stands at ``(i + k - lu, i)``. What would
    be outside of the matrix is never read.

    Args:
        data: (B, n, lu + ld + 1).
        lu: how many diagonals above the main one there are; negative if the band lies wholly below.
        ld: likewise below.
        fill: what a dense matrix has outside of the band.

    Raises:
        OperandError: the shape of ``data`` doesn't fit.

    Example:
        >>> m = BandedMatrix(torch.tensor([[[0, 1], [2, 4]]]), lu=1, ld=0)
        >>> m.to_dense()
        tensor([[[1, 2],
                 [0, 4]]])
        >>> m.transpose().to_dense()
        tensor([[[1, 0],
                 [2, 4]]])
    """

    def __init__(self, data: Tensor, lu: int, ld: int, fill: float = 0) -> None:
        if data.ndim != 3 or data.shape[2] != lu + ld + 1:
            raise OperandError(
                f"a band with lu={lu} and ld={ld} has data of shape (B, n, {lu + ld + 1}), "
                f"not {tuple(data.shape)}"
            )
        self.data, self.lu, self.ld, self.fill = data, lu, ld, fill
        self.width = lu + ld + 1

    def __repr__(self) -> str:
        return f"BandedMatrix({tuple(self.data.shape)}, lu={self.lu}, ld={self.ld}, fill={self.fill})"

    def to_dense(self) -> Tensor:
        """The matrices (B, n, n), with ``fill`` outside of the band."""
        return self._dense(self.fill)

    def transpose(self) -> BandedMatrix:
        """The transposed matrices, whose ``lu`` and ``ld`` change places."""
        n, device = self.data.shape[1], self.data.device
        band = torch.arange(self.width, device=device)
        rows = torch.arange(n, device=device).unsqueeze(1) + band - self.ld
        inside = (rows >= 0) & (rows < n)
        data = self.data[:, rows.clamp(0, max(n - 1, 0)), band.flip(0)]
        return BandedMatrix(data.masked_fill(~inside, self.fill), self.ld, self.lu, self.fill)

    def band_shift(self, t: int) -> BandedMatrix:
        """Move every row of ``data`` by ``t`` places to the left, with ``fill`` coming in.

        ``lu`` grows by ``t`` as in genbmm, so that element (r, c) of the result is (r + 2t, c) of this one.
        """
        return BandedMatrix(self._moved(2, t), self.lu + t, self.ld - t, self.fill) if t else self

    def band_unshift(self) -> BandedMatrix:
        """Move every row of ``data`` by one place to the right: element (r, c) is (r - 2, c) of this one."""
        return self.band_shift(-1)

    def band_pad(self, t: int) -> BandedMatrix:
        """Widen the band by ``t`` diagonals of ``fill`` on either side."""
        data = F.pad(self.data, (t, t), value=self.fill)
        return BandedMatrix(data, self.lu + t, self.ld + t, self.fill) if t else self

    def col_shift(self, t: int) -> BandedMatrix:
        """Move the columns of the matrix by ``t`` to the left, with ``fill`` coming in."""
        return BandedMatrix(self._moved(1, t), self.lu - t, self.ld + t, self.fill) if t else self

    def col_unshift(self) -> BandedMatrix:
        """Move the columns of the matrix by one to the right."""
        return self.col_shift(-1)

    def op(
        self, other: BandedMatrix, op: Callable[[Tensor, Tensor], Tensor], zero: float = 0
    ) -> BandedMatrix:
        """Combine the elements of two bands.

        Args:
            other: the second operand; its band may be another.
            op: of two tensors. It's applied within the band of ``other``; the rest of this band stays.
            zero: what this matrix has outside of its own band.

        Returns:
            A matrix whose band covers both.
        """
        lu, ld = max(self.lu, other.lu), max(self.ld, other.ld)
        data = F.pad(self.data, (lu - self.lu, ld - self.ld), value=zero)
        start = lu - other.lu
        before, middle, after = data.split([start, other.width, data.shape[2] - start - other.width], 2)
        return BandedMatrix(torch.cat([before, op(middle, other.data), after], 2), lu, ld, self.fill)

    def multiply(self, other: BandedMatrix) -> BandedMatrix:
        """The product of ``other``, transposed, with this matrix: A·B is ``b.multiply(a.transpose())``.

        Elements of the band of the result that are sums of nothing are ``fill``, here and in the other
        products.

        Args:
            other: of the same batch and size.

        Raises:
            OperandError: they don't fit.

        Example:
            >>> a = BandedMatrix(torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]), lu=1, ld=0)
            >>> a.multiply(a.transpose()).to_dense()
            tensor([[[ 1., 10.],
                     [ 0., 16.]]])
        """
        return self._product(other, torch.bmm, 0)

    def multiply_log(self, other: BandedMatrix) -> BandedMatrix:
        """The same over the log semiring; the gradient of a sum that is -inf is 0."""
        return self._product(other, lambda a, b: log.matmul(a, b, grad_of_neg_inf=0.0), -math.inf)

    def multiply_max(self, other: BandedMatrix) -> BandedMatrix:
        """The same over max-plus; the gradient goes to the first largest term."""
        return self._product(other, tropical.matmul, -math.inf)

    def _moved(self, dim: int, t: int) -> Tensor:
        shape = list(self.data.shape)
        shape[dim] = abs(t)
        coming = self.data.new_full(shape, self.fill)
        size = self.data.shape[dim]
        if t > 0:
            return torch.cat([self.data, coming], dim).narrow(dim, t, size)
        return torch.cat([coming, self.data], dim).narrow(dim, 0, size)

    def _dense(self, fill: float) -> Tensor:
        n, device = self.data.shape[1], self.data.device
        columns = torch.arange(n, device=device)
        band = columns.unsqueeze(1) - columns + self.lu
        inside = (band >= 0) & (band < self.width)
        dense = self.data[:, columns.expand(n, n), band.clamp(0, max(self.width - 1, 0))]
        return dense.masked_fill(~inside, fill)

    def _product(self, other: BandedMatrix, matmul: Callable[..., Any], zero: float) -> BandedMatrix:
        """Over a semiring with this ``zero``.

        Element j of row i of the result sums ``self.data[i, k] * other.data[o, k2]`` where the column is
        ``o = i + j - lu`` and both factors stand in the same row of their matrices,
        ``i + k - self.lu = o + k2 - other.lu``.
        """
        if other.data.shape[:2] != self.data.shape[:2]:
            raise OperandError(
                f"a product of banded matrices takes data of the same batch and size, "
                f"not {tuple(self.data.shape)} and {tuple(other.data.shape)}"
            )
        lu, ld = self.lu + other.ld, self.ld + other.lu
        batch, n = self.data.shape[:2]
        width = lu + ld + 1
        if n == 0 or self.width <= 0 or other.width <= 0:
            return BandedMatrix(self.data.new_full((batch, n, max(width, 0)), self.fill), lu, ld, self.fill)
        place = torch.arange(n, device=self.data.device).unsqueeze(1)  # (n, 1)
        column = place + torch.arange(width, device=self.data.device) - lu  # (n, width)
        first = torch.maximum(place - self.lu, column - other.lu).clamp(min=0)
        last = torch.minimum(place + self.ld, column + other.ld).clamp(max=n - 1)
        sums = (column >= 0) & (column < n) & (first <= last)
        if self.width * width * FEW > n * n:
            dense = matmul(other._dense(zero).mT, self._dense(zero))
            data = dense[:, column.clamp(0, n - 1), place]
        else:
            data = self._in_band(other, column, matmul, zero)
        return BandedMatrix(data.masked_fill(~sums, self.fill), lu, ld, self.fill)

    def _in_band(
        self, other: BandedMatrix, column: Tensor, matmul: Callable[..., Any], zero: float
    ) -> Tensor:
        """The data of the product from those terms alone that are inside both bands."""
        batch, n = self.data.shape[:2]
        width = column.shape[1]
        k = torch.arange(self.width, device=column.device).unsqueeze(1)  # (K, 1)
        row = torch.arange(n, device=column.device).view(-1, 1, 1) + k - self.lu  # (n, K, 1)
        k2 = k - torch.arange(width, device=column.device) + other.width - 1  # (K, width)
        column = column.unsqueeze(1)  # (n, 1, width)
        inside = (row >= 0) & (row < n) & (column >= 0) & (column < n) & (k2 >= 0) & (k2 < other.width)
        # (B, n, K, width)
        right = other.data[:, column.clamp(0, n - 1), k2.clamp(0, other.width - 1)].masked_fill(~inside, zero)
        left = self.data.masked_fill(~((row >= 0) & (row < n)).squeeze(2), zero)
        out: Tensor = matmul(left.reshape(batch * n, 1, -1), right.flatten(0, 1))
        return out.view(batch, n, width)


FEW = 100
"""A term that is gathered takes as long as so many of a dense product, as measured on a CPU."""
