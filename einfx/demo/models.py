"""The models that ship with einfx: real einsum programs that need nothing but torch.

Each can be traced by ``torch.fx.symbolic_trace`` with its default tracer, is the same on every construction,
and works in the default dtype and after ``.double()``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .symmetric_contraction import SymmetricContraction
from .tensor_product import Irrep, SharedTensorProduct, all_paths
from .tensor_train import TensorTrainLinear

__all__ = ["MODELS"]

SEED = 20


def symmetric_contraction() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """MACE's symmetric contraction of correlation 3, 64x0e+64x1o+64x2e+64x3o to 64x0e+64x1o, for 16 nodes."""
    generator = torch.Generator().manual_seed(SEED)
    model = SymmetricContraction(channels=64, elements=10, generator=generator)
    x = torch.randn(16, 64, 16, generator=generator)
    elements = torch.randint(10, (16,), generator=generator)
    return model, (x, nn.functional.one_hot(elements, 10).to(x.dtype))


def tensor_product() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Fully connected product of 16x0e+16x1o+16x2e with the spherical harmonics 0e+1o+2e, for 128 rows."""
    generator = torch.Generator().manual_seed(SEED)
    natural = [(0, 1), (1, -1), (2, 1)]
    features = [Irrep(16, *kind) for kind in natural]
    harmonics = [Irrep(1, *kind) for kind in natural]
    paths = list(all_paths(features, harmonics, features))
    model = SharedTensorProduct(features, harmonics, features, paths, generator=generator)
    first = torch.randn(128, sum(irrep.size for irrep in features), generator=generator)
    second = torch.randn(128, sum(irrep.size for irrep in harmonics), generator=generator)
    return model, (first, second)


def tensor_train() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Tensor-train layer from 8*8*8 = 512 to 8*8*8 = 512 features with ranks 16, for a batch of 64."""
    generator = torch.Generator().manual_seed(SEED)
    model = TensorTrainLinear((8, 8, 8), (8, 8, 8), (16, 16), generator=generator)
    return model, (torch.randn(64, 512, generator=generator),)


MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "symmetric_contraction": symmetric_contraction,
    "tensor_product": tensor_product,
    "tensor_train": tensor_train,
}
"""The shipped models: each factory gives the model and its example inputs."""
