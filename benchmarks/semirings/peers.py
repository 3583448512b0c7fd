"""Other libraries, where they are installed, called as their users call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contests.libraries import library

__all__ = [
    "CIRKIT",
    "PYRO",
    "SEMIRING_EINSUM",
    "TROPICAL_GEMM",
    "cirkit_tucker",
    "pyro_chain",
    "semiring_einsum",
    "tropical_gemm",
    "tropical_gemm_module",
]

SEMIRING_EINSUM = "torch_semiring_einsum"
TROPICAL_GEMM = "tropical-gemm"
PYRO = "pyro"
CIRKIT = "cirkit"


def semiring_einsum(
    equation: str, semiring: str, limit_bytes: int | None = None
) -> Callable[..., Any] | None:
    """A contraction of torch_semiring_einsum, which gives indices too over max_plus.

    Args:
        equation: compiled ahead, as its users do.
        semiring: ``"real"``, ``"log"`` or ``"max_plus"``.
        limit_bytes: the memory that is asked of it; by default its own default, 1 GiB.
    """
    peer = library("torch_semiring_einsum")
    if peer is None:
        return None
    compiled = peer.compile_equation(equation)
    size = peer.AUTOMATIC_BLOCK_SIZE
    if limit_bytes is not None:
        size = peer.AutomaticBlockSize(max_cpu_bytes=limit_bytes)
    function = {
        "real": peer.einsum,
        "log": peer.log_einsum,
        "max_plus": peer.log_viterbi_einsum_forward,
    }[semiring]
    return lambda *operands: function(compiled, *operands, block_size=size)


def tropical_gemm(semiring: str, argmax: bool = False) -> Callable[[Tensor, Tensor], Any] | None:
    """A matrix product of tropical-gemm, which takes arrays of numpy that share memory with the tensors.

    Args:
        semiring: ``"max_plus"``, ``"min_plus"`` or ``"max_times"``.
        argmax: whether indices are wanted too.
    """
    peer = library("tropical_gemm")
    if peer is None:
        return None
    name = {"max_plus": "maxplus", "min_plus": "minplus", "max_times": "maxmul"}[semiring]
    if not argmax:
        product = getattr(peer, f"{name}_matmul_2d")
        return lambda a, b: torch.from_numpy(product(a.numpy(), b.numpy()))
    both = getattr(peer, f"{name}_matmul_with_argmax")

    def call(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        values, places = both(a.numpy(), b.numpy())
        shape = a.shape[0], b.shape[1]
        return torch.from_numpy(values).reshape(shape), torch.from_numpy(places).reshape(shape)

    return call


def tropical_gemm_module(semiring: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Its differentiable product of tensors."""
    peer = library("tropical_gemm.pytorch")
    name = {"max_plus": "maxplus", "min_plus": "minplus", "max_times": "maxmul"}[semiring]
    return None if peer is None else getattr(peer, f"tropical_{name}_matmul")


def pyro_chain() -> Callable[[Tensor], Tensor] | None:
    """Pyro's product of a chain of matrices (..., time, states, states) in log space."""
    peer = library("pyro.distributions.hmm")
    return None if peer is None else peer._sequential_logmatmulexp


def cirkit_tucker(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A Tucker layer of cirkit over its log semiring.

    Args:
        weight: (folds, outputs, inputs, inputs), linear.

    Returns:
        The layer, which takes logarithms (folds, 2, batch, inputs).
    """
    layers = library("cirkit.backend.torch.layers.optimized")
    if layers is None:
        return None
    nodes = library("cirkit.backend.torch.parameters.nodes")
    parameters = library("cirkit.backend.torch.parameters.parameter")
    semiring = library("cirkit.backend.torch.semiring").LSESumSemiring
    folds, outputs, inputs, _ = weight.shape
    leaf = nodes.TorchTensorParameter(
        outputs,
        inputs * inputs,
        num_folds=folds,
        initializer_=lambda values: values.copy_(weight.flatten(2)),
    )
    # What its compiler makes of so many layers of one kind: all of them folded into one.
    folded = parameters.FoldIndexInfo([leaf], {0: [[]] * folds}, [(0, fold) for fold in range(folds)])
    values = parameters.TorchParameter([leaf], {}, [leaf], fold_idx_info=folded)
    values.reset_parameters()
    layer: Callable[[Tensor], Tensor] = layers.TorchTuckerLayer(
        inputs, outputs, weight=values, semiring=semiring, num_folds=folds
    )
    return layer
