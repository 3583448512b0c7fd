"""Equivariant tensor products in the form that e3nn generates: one einsum or two for every path."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .coupling import wigner_3j

__all__ = ["Irrep", "Path", "RowwiseTensorProduct", "SharedTensorProduct", "TensorProduct", "all_paths"]


class Irrep(NamedTuple):
    """Several copies of one irreducible representation of O(3), such as 64x1o.

    Attributes:
        multiplicity: number of copies.
        degree: l, so that one copy has ``2l + 1`` components.
        parity: 1 for even, -1 for odd.
    """

    multiplicity: int
    degree: int
    parity: int

    @property
    def size(self) -> int:
        """Number of components of all copies."""
        return self.multiplicity * (2 * self.degree + 1)


class Path(NamedTuple):
    """One way through a tensor product.

    Attributes:
        first: index of the first factor's irrep.
        second: index of the second factor's irrep.
        out: index of the output's irrep.
        mode: "uvw" connects all copies with all; "uvu" makes one output copy of each in the first factor.
    """

    first: int
    second: int
    out: int
    mode: str


def all_paths(
    irreps_first: Sequence[Irrep],
    irreps_second: Sequence[Irrep],
    irreps_out: Sequence[Irrep],
    mode: str = "uvw",
) -> Iterator[Path]:
    """Every path that the symmetries allow, in the order of the irreps."""
    for first, a in enumerate(irreps_first):
        for second, b in enumerate(irreps_second):
            for out, c in enumerate(irreps_out):
                coupled = abs(a.degree - b.degree) <= c.degree <= a.degree + b.degree
                if coupled and a.parity * b.parity == c.parity:
                    yield Path(first, second, out, mode)


class TensorProduct(nn.Module):
    """Weighted equivariant tensor product of two feature vectors, row by row.

    Outer products of irreps are shared between paths, paths with a scalar take a shorter form without Wigner
    symbols, and each result is scaled by the square root that keeps components at unit variance (Geiger and
    Smidt 2022, "e3nn: Euclidean Neural Networks", section on tensor products).

    Args:
        irreps_first: irreps of the first factor.
        irreps_second: irreps of the second factor.
        irreps_out: irreps of the output; each needs at least one path.
        paths: the paths from the factors to the output.
        shared_weights: whether all rows use the same weights.
    """

    def __init__(
        self,
        irreps_first: Sequence[Irrep],
        irreps_second: Sequence[Irrep],
        irreps_out: Sequence[Irrep],
        paths: Sequence[Path],
        shared_weights: bool,
    ) -> None:
        super().__init__()
        self.irreps_first = tuple(irreps_first)
        self.irreps_second = tuple(irreps_second)
        self.irreps_out = tuple(irreps_out)
        self.paths = tuple(paths)
        self.shared_weights = shared_weights
        self.weight_size = sum(math.prod(self._weight_shape(path)) for path in self.paths)
        for degrees in sorted({self._degrees(path) for path in self.paths}):
            if 0 not in degrees:
                symbol = wigner_3j(*degrees).to(torch.get_default_dtype())
                self.register_buffer(_symbol_name(degrees), symbol)

    def multiply(
        self,
        first: Tensor,  # shape: (..., sum of sizes of irreps_first)
        second: Tensor,  # shape: (..., sum of sizes of irreps_second)
        weight: Tensor,  # shape: (weight_size,) if shared, else (..., weight_size)
    ) -> Tensor:  # shape: (..., sum of sizes of irreps_out)
        """Multiply the factors, whose leading dimensions are broadcast."""
        leading = [first[..., 0], second[..., 0]]
        if not self.shared_weights:
            leading.append(weight[..., 0])
        row_shape = torch.broadcast_tensors(*leading)[0].shape
        any_size = _append(row_shape, -1)
        first = first.expand(any_size).reshape(-1, _total_size(self.irreps_first))
        second = second.expand(any_size).reshape(-1, _total_size(self.irreps_second))
        if not self.shared_weights:
            weight = weight.expand(any_size)
        weight = weight.reshape(-1, self.weight_size)
        rows = first.shape[0]
        firsts = _split(first, self.irreps_first, rows)
        seconds = _split(second, self.irreps_second, rows)

        products: dict[tuple[int, int], Tensor] = {}
        results: list[list[Tensor]] = [[] for _ in self.irreps_out]
        start = 0
        for path in self.paths:
            shape = self._weight_shape(path)
            path_weight = weight[:, start : start + math.prod(shape)]
            path_weight = path_weight.reshape(shape if self.shared_weights else (-1, *shape))
            start += math.prod(shape)
            pair = firsts[path.first], seconds[path.second]
            result = self._scale(path) * self._multiply_path(path, *pair, path_weight, products)
            results[path.out].append(result.reshape(rows, self.irreps_out[path.out].size))
        joined = torch.cat([_sum(of_same_irrep) for of_same_irrep in results], dim=1)
        return joined.reshape(_append(row_shape, _total_size(self.irreps_out)))

    def _multiply_path(
        self,
        path: Path,
        first: Tensor,  # shape: (rows z, copies u, components i)
        second: Tensor,  # shape: (rows z, copies v, components j)
        weight: Tensor,  # shape: (u, v, w) or (u, v), with rows z in front unless shared
        products: dict[tuple[int, int], Tensor],
    ) -> Tensor:  # shape: (rows z, copies w or u, components k)
        """One path, without its scale; ``products`` keeps outer products that several paths need."""
        degrees = self._degrees(path)
        copies = path.mode[2]
        labels = ("" if self.shared_weights else "z") + ("uvw" if path.mode == "uvw" else "uv")
        first_scalars = first.reshape(first.shape[0], -1)
        second_scalars = second.reshape(second.shape[0], -1)
        if degrees == (0, 0, 0):
            return torch.einsum(f"{labels},zu,zv->z{copies}", weight, first_scalars, second_scalars)
        if degrees[0] == 0:
            product = torch.einsum(f"{labels},zu,zvj->z{copies}j", weight, first_scalars, second)
            return product / math.sqrt(2 * degrees[2] + 1)
        if degrees[1] == 0:
            product = torch.einsum(f"{labels},zui,zv->z{copies}i", weight, first, second_scalars)
            return product / math.sqrt(2 * degrees[2] + 1)
        if degrees[2] == 0:
            product = torch.einsum(f"{labels},zui,zvi->z{copies}", weight, first, second)
            return product / math.sqrt(2 * degrees[0] + 1)
        pair = (path.first, path.second)
        if pair not in products:
            products[pair] = torch.einsum("zui,zvj->zuvij", first, second)
        symbol = self.get_buffer(_symbol_name(degrees))
        return torch.einsum(f"{labels},ijk,zuvij->z{copies}k", weight, symbol, products[pair])

    def _degrees(self, path: Path) -> tuple[int, int, int]:
        return (
            self.irreps_first[path.first].degree,
            self.irreps_second[path.second].degree,
            self.irreps_out[path.out].degree,
        )

    def _weight_shape(self, path: Path) -> tuple[int, ...]:
        pair = (self.irreps_first[path.first].multiplicity, self.irreps_second[path.second].multiplicity)
        return (*pair, self.irreps_out[path.out].multiplicity) if path.mode == "uvw" else pair

    def _scale(self, path: Path) -> float:
        """Square root of the output's dimension over the number of terms that are summed into it."""
        terms = 0
        for other in self.paths:
            if other.out == path.out:
                copies_first = self.irreps_first[other.first].multiplicity if other.mode == "uvw" else 1
                terms += copies_first * self.irreps_second[other.second].multiplicity
        return math.sqrt((2 * self.irreps_out[path.out].degree + 1) / terms)


class SharedTensorProduct(TensorProduct):
    """Tensor product with one set of weights, a parameter, for all rows."""

    def __init__(
        self,
        irreps_first: Sequence[Irrep],
        irreps_second: Sequence[Irrep],
        irreps_out: Sequence[Irrep],
        paths: Sequence[Path],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(irreps_first, irreps_second, irreps_out, paths, shared_weights=True)
        self.weight = nn.Parameter(torch.randn(self.weight_size, generator=generator))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Multiply ``first`` and ``second``, shaped as in :meth:`TensorProduct.multiply`."""
        return self.multiply(first, second, self.weight)


class RowwiseTensorProduct(TensorProduct):
    """Tensor product whose weights come with the data, another set for each row."""

    def __init__(
        self,
        irreps_first: Sequence[Irrep],
        irreps_second: Sequence[Irrep],
        irreps_out: Sequence[Irrep],
        paths: Sequence[Path],
    ) -> None:
        super().__init__(irreps_first, irreps_second, irreps_out, paths, shared_weights=False)

    def forward(self, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        """Multiply ``first`` and ``second``, shaped as in :meth:`TensorProduct.multiply`."""
        return self.multiply(first, second, weight)


def _symbol_name(degrees: tuple[int, int, int]) -> str:
    return "w3j_{}_{}_{}".format(*degrees)


def _append(shape: torch.Size, size: int) -> torch.Size:
    return shape + (size,)  # noqa: RUF005 (a traced shape can be added to but not unpacked)


def _total_size(irreps: Sequence[Irrep]) -> int:
    return sum(irrep.size for irrep in irreps)


def _split(
    features: Tensor,  # shape: (rows, sum of the irreps' sizes)
    irreps: Sequence[Irrep],
    rows: int,
) -> list[Tensor]:  # one for each irrep, of shape (rows, multiplicity, 2*degree + 1)
    parts = []
    start = 0
    for irrep in irreps:
        part = features[:, start : start + irrep.size]
        parts.append(part.reshape(rows, irrep.multiplicity, 2 * irrep.degree + 1))
        start += irrep.size
    return parts


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
