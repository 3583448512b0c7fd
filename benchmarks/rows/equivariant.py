"""Equivariant neural networks: interatomic potentials and spherical tensors."""

import math

import torch
from torch import Tensor, nn

from einfx.demo.coupling import wigner_3j
from einfx.demo.models import MODELS
from einfx.demo.symmetric_contraction import SymmetricContraction
from einfx.demo.tensor_product import Irrep, Path, RowwiseTensorProduct, all_paths

from ..row import Program, Row

__all__ = ["ROWS"]

SEED = 11


def mace() -> Program:
    """MACE's product basis at its usual width."""
    generator = torch.Generator().manual_seed(SEED)
    model = SymmetricContraction(channels=128, elements=10, correlation=3, generator=generator)
    x = torch.randn(64, 128, 16, generator=generator)
    elements = torch.randint(10, (64,), generator=generator)
    return model, (x.requires_grad_(), nn.functional.one_hot(elements, 10).to(x.dtype))


def nequip() -> Program:
    """The convolution of nequip's interaction block: every path has an output of its own, sorted by irrep."""
    generator = torch.Generator().manual_seed(SEED)
    features = [Irrep(64, degree, parity) for degree in (0, 1, 2) for parity in (1, -1)]
    harmonics = [Irrep(1, degree, (-1) ** degree) for degree in (0, 1, 2)]
    pairs = sorted(all_paths(features, harmonics, features, mode="uvu"), key=lambda path: path.out)
    outputs = [features[pair.out] for pair in pairs]
    paths = [pair._replace(out=position) for position, pair in enumerate(pairs)]
    model = RowwiseTensorProduct(features, harmonics, outputs, sorted(paths, key=_factors))
    first = torch.randn(500, sum(irrep.size for irrep in features), generator=generator)
    second = torch.randn(500, 9, generator=generator)
    weight = torch.randn(500, model.weight_size, generator=generator)
    return model, (first.requires_grad_(), second.requires_grad_(), weight.requires_grad_())


def _factors(path: Path) -> tuple[int, int]:
    return path.first, path.second


class QuaternionWigner(nn.Module):
    """Wigner matrices of degree 2 as quartic polynomials of unit quaternions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coefficients", quartic_coefficients().to(torch.get_default_dtype()))

    def forward(
        self,
        q: Tensor,  # shape: (edges n, 4)
    ) -> Tensor:  # shape: (edges n, 5, 5)
        """Form all products of four components, then contract."""
        pairs = q.unsqueeze(-1) * q.unsqueeze(-2)
        quadruples = pairs.unsqueeze(-1).unsqueeze(-1) * pairs.unsqueeze(-3).unsqueeze(-3)
        return torch.einsum("nabcd,ijabcd->nij", quadruples, self.get_buffer("coefficients"))


def quartic_coefficients() -> Tensor:
    """Coefficients of the degree-2 rotation in the four components of a quaternion.

    A rotation of vectors is quadratic in its quaternion; coupling two vectors to degree 2 carries it over.

    Returns:
        Shape (5, 5, 4, 4, 4, 4), float64.
    """
    units = torch.eye(4, dtype=torch.float64)
    # left[a, m, v]: component m of unit_a * unit_v; right[b, m, v]: that of unit_v * conjugate(unit_b)
    left = torch.stack([torch.stack([_product(a, v) for v in units], dim=1) for a in units])
    conjugates = units * torch.tensor([1.0, -1.0, -1.0, -1.0])
    right = torch.stack([torch.stack([_product(v, b) for v in units], dim=1) for b in conjugates])
    rotation = torch.einsum("bmw,awv->mvab", right, left)[1:, 1:]
    order = [1, 2, 0]  # real spherical harmonics of degree 1 are y, z, x
    rotation = rotation[order][:, order]
    symbol = wigner_3j(1, 1, 2) * math.sqrt(5)
    return torch.einsum("uvi,uxab,vycd,xyj->ijabcd", symbol, rotation, rotation, symbol)


def _product(p: Tensor, q: Tensor) -> Tensor:
    scalar = p[0] * q[0] - torch.dot(p[1:], q[1:])
    vector = p[0] * q[1:] + q[0] * p[1:] + torch.linalg.cross(p[1:], q[1:])
    return torch.cat([scalar.reshape(1), vector])


def fairchem() -> Program:
    """Rotations of 2000 edges."""
    generator = torch.Generator().manual_seed(SEED)
    q = nn.functional.normalize(torch.randn(2000, 4, generator=generator), dim=1)
    return QuaternionWigner(), (q.requires_grad_(),)


ROWS = (
    Row("demo: symmetric contraction", "shipped; 16 nodes, 64 channels", MODELS["symmetric_contraction"]),
    Row("demo: tensor product", "shipped; e3nn's uvw form, 128 rows, 16 channels", MODELS["tensor_product"]),
    Row("demo: tensor train", "shipped; 512 to 512 features, ranks 16, batch 64", MODELS["tensor_train"]),
    Row("mace", "128x0e+128x1o+128x2e+128x3o -> 128x0e+128x1o, correlation 3, 64 nodes, 10 elements", mace),
    Row("nequip", "uvu, 64x(0e,0o,1e,1o,2e,2o) x (0e,1o,2e), weights per edge, 500 edges", nequip),
    Row("fairchem", "nabcd,ijabcd->nij with its products of quaternions, 2000 edges", fairchem),
)
