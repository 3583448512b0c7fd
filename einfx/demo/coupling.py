"""Coupling coefficients of the rotation group in the real basis: Wigner 3j symbols and their higher orders.

The shipped models contract with these constants, so they are computed here, in float64 and from the closed
formula, rather than replaced by random numbers: their shapes and their sparsity are the real ones.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["coupling_tensor", "wigner_3j"]

ROUNDING = 1e-12
"""Entries below this are rounding errors of exact zeros."""

Block = tuple[int, int, Tensor]
"""Degree l, parity (1 or -1) and a basis of shape ``(2l + 1, dim, ..., dim)``."""


def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Wigner 3j symbol between real spherical harmonics, with unit Frobenius norm.

    Args:
        l1: degree of the first factor.
        l2: degree of the second factor.
        l3: degree of the product, between ``|l1 - l2|`` and ``l1 + l2``.

    Returns:
        Shape ``(2*l1 + 1, 2*l2 + 1, 2*l3 + 1)``, float64; a new tensor on every call.

    >>> cross = wigner_3j(1, 1, 1) * math.sqrt(6)  # the cross product of two vectors
    >>> cross[0, 1].round().tolist()
    [0.0, 0.0, 1.0]
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2} and {l3} do not satisfy the triangle inequality")
    return _real_wigner_3j(l1, l2, l3).clone()


@cache
def _real_wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    clebsch_gordan = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                clebsch_gordan[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3)
    complex_coupling = torch.einsum(
        "abc,ai,bj,ck->ijk",
        clebsch_gordan,
        _complex_from_real(l1),
        _complex_from_real(l2),
        _complex_from_real(l3).conj(),
    )
    real = torch.view_as_real(complex_coupling)[..., 0].clone()
    real[real.abs() < ROUNDING] = 0.0
    return real.div_(torch.linalg.vector_norm(real))


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int) -> float:
    """``<j1 m1 j2 m2 | j3 m1+m2>`` by Racah's sum (Racah 1942, "Theory of Complex Spectra II", eq. 16)."""
    m3 = m1 + m2
    f = math.factorial
    triangle = f(j1 + j2 - j3) * f(j3 + j1 - j2) * f(j3 + j2 - j1) / f(j1 + j2 + j3 + 1)
    magnitudes = f(j1 + m1) * f(j1 - m1) * f(j2 + m2) * f(j2 - m2) * f(j3 + m3) * f(j3 - m3)
    total = 0.0
    for k in range(j1 + j2 - j3 + 1):
        arguments = (k, j1 + j2 - j3 - k, j1 - m1 - k, j2 + m2 - k, j3 - j2 + m1 + k, j3 - j1 - m2 + k)
        if min(arguments) >= 0:
            total += (-1) ** k / math.prod(map(f, arguments))
    return math.sqrt((2 * j3 + 1) * triangle * magnitudes) * total


def _complex_from_real(degree: int) -> Tensor:
    """Unitary matrix of complex spherical harmonics (rows) in real ones (columns), both ordered by m.

    The phase ``(-i)^l`` makes every coupling of three such bases real.
    """
    size = 2 * degree + 1
    real, imaginary = torch.zeros(2, size, size, dtype=torch.float64)
    real[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1) ** m
        real[degree - m, degree + m] = math.sqrt(0.5)
        real[degree + m, degree + m] = sign * math.sqrt(0.5)
        imaginary[degree - m, degree - m] = -math.sqrt(0.5)
        imaginary[degree + m, degree - m] = sign * math.sqrt(0.5)
    return torch.complex(real, imaginary) * (-1j) ** degree


def coupling_tensor(degrees: Sequence[int], degree_out: int, order: int) -> Tensor:
    """Every way to couple ``order`` copies of a feature vector to one spherical tensor.

    The feature vector holds one spherical tensor of natural parity ``(-1)^l`` for each of ``degrees``. The
    copies are coupled from left to right through all intermediate degrees and parities, each product scaled
    by ``sqrt(2l + 1)`` so that components keep unit variance (Batatia et al. 2022, "MACE", eq. 10).

    Args:
        degrees: degrees of the feature vector, whose dimension is ``dim = sum(2l + 1)``.
        degree_out: degree of the result, of natural parity.
        order: number of copies coupled.

    Returns:
        Shape ``(2*degree_out + 1, dim, ..., dim, paths)`` with ``order`` times ``dim``, float64; without the
        leading axis for ``degree_out = 0``.

    >>> coupling_tensor((0, 1, 2, 3), 1, 3).shape
    torch.Size([3, 16, 16, 16, 51])
    """
    parity_out = (-1) ** degree_out
    blocks = _blocks(tuple(degrees), order, (degree_out, parity_out))
    coupled = torch.stack([basis for *_, basis in blocks], dim=-1)
    coupled[coupled.abs() < ROUNDING] = 0.0
    return coupled[0] if degree_out == 0 else coupled


def _blocks(degrees: tuple[int, ...], order: int, wanted: tuple[int, int] | None) -> list[Block]:
    """Bases of the spherical tensors in the ``order``-fold product; only of the ``wanted`` kind if given."""
    dim = sum(2 * degree + 1 for degree in degrees)
    if order == 1:
        identity = torch.eye(dim, dtype=torch.float64)
        blocks = [(degree, (-1) ** degree, identity[rows]) for degree, rows in _slices(degrees)]
        return [block for block in blocks if wanted is None or block[:2] == wanted]
    products: list[Block] = []
    for left_degree, left_parity, left in _blocks(degrees, order - 1, None):
        for right_degree, columns in _slices(degrees):
            parity = left_parity * (-1) ** right_degree
            for degree in range(abs(left_degree - right_degree), left_degree + right_degree + 1):
                if wanted is not None and wanted != (degree, parity):
                    continue
                symbol = wigner_3j(degree, left_degree, right_degree) * math.sqrt(2 * degree + 1)
                basis = torch.zeros(2 * degree + 1, *left.shape[1:], dim, dtype=torch.float64)
                basis[..., columns] = torch.einsum("kij,i...->k...j", symbol, left)
                products.append((degree, parity, basis))
    # The sort is stable: within a degree and parity, paths keep the order of their construction.
    return sorted(products, key=lambda block: block[:2])


def _slices(degrees: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each degree with its components' place in the feature vector."""
    start = 0
    for degree in degrees:
        yield degree, slice(start, start + 2 * degree + 1)
        start += 2 * degree + 1
