"""The coupling coefficients are the real ones."""

import itertools
import math

import pytest
import torch

from einfx.demo.coupling import coupling_tensor, wigner_3j

TRIANGLES = [
    (l1, l2, l3)
    for l1, l2 in itertools.product(range(4), repeat=2)
    for l3 in range(abs(l1 - l2), l1 + l2 + 1)
]


def rotation(degree: int, generator: torch.Generator) -> torch.Tensor:
    """A rotation about a fixed axis in degree 1, and what the couplings make of it in higher degrees."""
    angles = torch.randn(3, generator=generator, dtype=torch.float64)
    # [E_a]_bc = -epsilon_abc generates rotations; the symbol (1, 1, 1) is epsilon / sqrt(6).
    epsilon = wigner_3j(1, 1, 1) * math.sqrt(6)
    vector = torch.linalg.matrix_exp(-torch.einsum("a,abc->bc", angles, epsilon))
    result = torch.ones(1, 1, dtype=torch.float64) if degree == 0 else vector
    for built in range(1, degree):
        symbol = wigner_3j(1, built, built + 1) * math.sqrt(2 * built + 3)
        result = torch.einsum("abk,ac,bd,cdl->kl", symbol, vector, result, symbol)
    return result


@pytest.mark.parametrize("degrees", TRIANGLES)
def test_wigner_symbols_are_invariant_under_rotations(degrees: tuple[int, int, int]) -> None:
    symbol = wigner_3j(*degrees)
    turns = [rotation(degree, torch.Generator().manual_seed(3)) for degree in degrees]
    turned = torch.einsum("ijk,il,jm,kn->lmn", symbol, *turns)
    torch.testing.assert_close(turned, symbol, rtol=0, atol=1e-12)
    assert torch.linalg.vector_norm(symbol).item() == pytest.approx(1.0)


@pytest.mark.parametrize("degrees", TRIANGLES)
def test_wigner_symbols_are_those_of_e3nn(degrees: tuple[int, int, int]) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    expected = o3.wigner_3j(*degrees, dtype=torch.float64)
    torch.testing.assert_close(wigner_3j(*degrees), expected, rtol=0, atol=1e-12)


def test_wigner_symbols_refuse_degrees_that_do_not_couple() -> None:
    with pytest.raises(ValueError, match="degrees 1, 1 and 3 do not satisfy the triangle inequality"):
        wigner_3j(1, 1, 3)


@pytest.mark.parametrize(
    ("degree_out", "order", "shape", "nonzeros"),
    [
        (0, 1, (16, 1), 1),
        (0, 2, (16, 16, 4), 16),
        (0, 3, (16, 16, 16, 23), 353),
        (1, 1, (3, 16, 1), 3),
        (1, 2, (3, 16, 16, 6), 70),
        (1, 3, (3, 16, 16, 16, 51), 2838),
    ],
)
def test_coupling_tensors_have_the_shapes_and_the_sparsity_of_mace(
    degree_out: int, order: int, shape: tuple[int, ...], nonzeros: int
) -> None:
    coupling = coupling_tensor((0, 1, 2, 3), degree_out, order)
    assert coupling.shape == shape
    assert torch.count_nonzero(coupling) == nonzeros


def test_coupling_tensors_commute_with_rotations() -> None:
    coupling = coupling_tensor((0, 1, 2), 1, 3)
    blocks = [rotation(degree, torch.Generator().manual_seed(3)) for degree in (0, 1, 2)]
    features = torch.block_diag(*blocks)
    turned_inputs = torch.einsum("aijkp,il,jm,kn->almnp", coupling, features, features, features)
    turned_output = torch.einsum("ab,bijkp->aijkp", blocks[1], coupling)
    torch.testing.assert_close(turned_inputs, turned_output, rtol=0, atol=1e-12)
