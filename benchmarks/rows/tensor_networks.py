"""Tensor networks and factorised layers."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from ..row import Program, Row, einsum_program

__all__ = ["ROWS"]

SEED = 14
TORCHTT = "lsr,smnS,LSR,rnR->lmL"


class BlockTensorTrainLinear(nn.Module):
    """Linear layer that contracts its input with all cores in one einsum, as tensorly-torch does.

    Args:
        features: factors of the number of features, the same at input and output.
        ranks: ranks of the cores, one more than cores.
        generator: source of the weights.
    """

    def __init__(self, features: tuple[int, ...], ranks: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.features = features
        shapes = zip(ranks[:-1], features, features, ranks[1:], strict=True)
        self.cores = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(shape[0] * shape[2]))
            for shape in shapes
        )
        self.bias = nn.Parameter(torch.zeros(math.prod(features)))

    def forward(
        self,
        x: Tensor,  # shape: (batch, features)
    ) -> Tensor:  # shape: (batch, features)
        """Apply the layer."""
        blocks = x.reshape(-1, *self.features)
        product = torch.einsum("abcd,hebi,ifcj,jgdk->aefg", blocks, *list(self.cores))
        return product.reshape(x.shape[0], -1) + self.bias


def tensorly() -> Program:
    """FactorizedLinear((4, 8, 8), (4, 8, 8), rank=0.3, factorization="blocktt"): ranks are 1, 13, 21, 1."""
    generator = torch.Generator().manual_seed(SEED)
    model = BlockTensorTrainLinear((4, 8, 8), (1, 13, 21, 1), generator)
    return model, (torch.randn(128, 256, generator=generator).requires_grad_(),)


class MatrixProductNorm(nn.Module):
    """Squared norm of a matrix product state, site by site from the left.

    Args:
        sites: number of sites.
        bond: size of the bonds between sites.
        physical: size of a site.
        generator: source of the tensors.
    """

    def __init__(self, sites: int, bond: int, physical: int, generator: torch.Generator) -> None:
        super().__init__()
        scale = 1 / math.sqrt(bond * physical)
        self.first = nn.Parameter(torch.randn(physical, bond, generator=generator))
        self.middle = nn.ParameterList(
            nn.Parameter(torch.randn(bond, physical, bond, generator=generator) * scale)
            for _ in range(sites - 2)
        )
        self.last = nn.Parameter(torch.randn(bond, physical, generator=generator) * scale)

    def forward(self) -> Tensor:
        """The norm, a scalar."""
        environment = torch.einsum("pa,pb->ab", self.first, self.first)
        for site in self.middle:
            environment = torch.einsum("ab,apc,bpd->cd", environment, site, site)
        return torch.einsum("ab,ap,bp->", environment, self.last, self.last)


def matrix_product_norm() -> Program:
    """Fifty spins at bond dimension 32."""
    return MatrixProductNorm(50, 32, 2, torch.Generator().manual_seed(SEED)), ()


class MeraEnergy(nn.Module):
    """Energy of one layer of a ternary MERA: the Hamiltonian is carried up through the layer's tensors.

    A two-site term can sit at three places below a pair of isometries; the mean of the three is the
    coarse-grained term (Evenbly and Vidal 2009, "Algorithms for entanglement renormalization", section IV).

    Args:
        bond: size of every leg.
        generator: source of the tensors.
    """

    def __init__(self, bond: int, generator: torch.Generator) -> None:
        super().__init__()
        isometry = torch.linalg.qr(torch.randn(bond**3, bond, generator=generator)).Q
        disentangler = torch.linalg.qr(torch.randn(bond**2, bond**2, generator=generator)).Q
        self.isometry = nn.Parameter(isometry.reshape(bond, bond, bond, bond))
        self.disentangler = nn.Parameter(disentangler.reshape(bond, bond, bond, bond))

    def forward(
        self,
        hamiltonian: Tensor,  # shape: (bond, bond, bond, bond), two legs above and two below
        density: Tensor,  # shape: the same, of the coarse-grained sites
    ) -> Tensor:  # a scalar
        """Carry the Hamiltonian up and take its expectation."""
        w, u = self.isometry, self.disentangler
        left = torch.einsum("abcx,defy,cdgh,bgBG,CDGh,aBCX,DefY->xyXY", w, w, u, hamiltonian, u, w, w)
        centre = torch.einsum("abcx,defy,cdgh,ghGH,CDGH,abCX,DefY->xyXY", w, w, u, hamiltonian, u, w, w)
        right = torch.einsum("abcx,defy,cdgh,heHE,CDgH,abCX,DEfY->xyXY", w, w, u, hamiltonian, u, w, w)
        coarse = (left + centre + right) / 3.0
        return torch.einsum("xyXY,XYxy->", coarse, density)


def mera() -> Program:
    """Bond dimension 6."""
    generator = torch.Generator().manual_seed(SEED)
    hamiltonian, density = (torch.randn(6, 6, 6, 6, generator=generator) / 6 for _ in range(2))
    return MeraEnergy(6, generator), (hamiltonian.requires_grad_(), density.requires_grad_())


ROWS = (
    Row(
        "torchtt",
        f"{TORCHTT}; local product of the AMEn solver, ranks 32, operator rank 6, mode 20",
        partial(einsum_program, TORCHTT, [(32, 6, 32), (6, 20, 20, 6), (32, 6, 32), (32, 20, 32)]),
        equation=TORCHTT,
    ),
    Row("tensorly-torch", "FactorizedLinear((4,8,8), (4,8,8), rank=.3, 'blocktt'), batch 128", tensorly),
    Row("mps norm", "50 sites, bond 32, spin 1/2", matrix_product_norm),
    Row("mera", "energy of a ternary layer, bond 6", mera),
)
