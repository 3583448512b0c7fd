"""What torch says of a convolution and of all that is computed from it, and how that is compared.

The oracle of an operation is a function over torch's own convolutions. Every one is a sum of products with
coefficients that aren't negative, and so are its derivatives: on absolute values it says what the sizes of
the summed products come to, which is the natural scale of rounding errors, element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conv.draws import Convolution, Transposed

__all__ = [
    "Function",
    "adjoint",
    "agree",
    "check",
    "conv",
    "kfac_reduce",
    "kfc",
    "like",
    "transposed",
    "unfolded",
]

TOLERANCE = 1e-12

Function = Callable[..., Tensor]

_CONV: dict[int, Function] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Function] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


# What torch says.


def with_margins(x: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros around the last dimensions; negative numbers cut."""
    x = F.pad(x, [max(side, 0) for pair in reversed(margins) for side in pair])
    for dim, (left, right) in enumerate(margins, x.ndim - len(margins)):
        start = max(-left, 0)
        x = x.narrow(dim, start, x.shape[dim] - start - max(-right, 0))
    return x


def by_real_parts(function: Function, x: Tensor, weight: Tensor) -> Tensor:
    """A bilinear function, of complex tensors by their parts: torch's differentiates only once for these."""
    if not weight.dtype.is_complex:
        if not x.dtype.is_complex:
            return function(x, weight)
        return torch.complex(function(x.real, weight), function(x.imag, weight))
    a, b, c, d = x.real, x.imag, weight.real, weight.imag
    return torch.complex(function(a, c) - function(b, d), function(a, d) + function(b, c))


def conv(x: Tensor, weight: Tensor, draw: Convolution, groups: int | None = None) -> Tensor:
    """Torch's convolution of a padded input."""
    padded = with_margins(x, draw.margins)
    groups = draw.groups if groups is None else groups

    def real(x: Tensor, weight: Tensor) -> Tensor:
        return _CONV[draw.n](x, weight, None, draw.strides, 0, draw.dilations, groups)

    return by_real_parts(real, padded, weight)


def transposed(x: Tensor, weight: Tensor, draw: Transposed, groups: int | None = None) -> Tensor:
    """Torch's transposed convolution, cut to its margins."""
    extra = draw.hyper["output_padding"]
    groups = draw.groups if groups is None else groups

    def real(x: Tensor, weight: Tensor) -> Tensor:
        return _TRANSPOSED[draw.n](x, weight, None, draw.strides, 0, extra, groups, draw.dilations)

    whole = by_real_parts(real, x, weight)
    return with_margins(whole, [(-left, -right) for left, right in draw.margins])


def unfolded(x: Tensor, draw: Convolution) -> Tensor:
    """Patches, shape: (*batch, channels, kernel elements, outputs), by a kernel for each element."""
    elements, channels = prod(draw.kernel_size), draw.in_channels
    one_hot = torch.eye(elements, dtype=x.dtype).reshape(elements, 1, *draw.kernel_size)
    if isinstance(draw, Transposed):
        kernel = one_hot.movedim(0, 1).repeat(channels, *(1,) * (draw.n + 1))
        out = transposed(x, kernel, draw, channels)
    else:
        out = conv(x, one_hot.repeat(channels, *(1,) * (draw.n + 1)), draw, channels)
    return out.reshape(*draw.batch, channels, elements, -1)


def by_group(x: Tensor, draw: Convolution) -> Tensor:
    """Patches of every group, shape: (batch, groups, side, outputs)."""
    return unfolded(x, draw).reshape(prod(draw.batch), draw.groups, -1, prod(draw.output_size))


def kfc(x: Tensor, draw: Convolution) -> Tensor:
    """The second moment of patches, position by position."""
    patches = by_group(x, draw)
    return torch.einsum("ngpo,ngqo->gpq", patches, patches) / len(patches)


def kfac_reduce(x: Tensor, draw: Convolution) -> Tensor:
    """The second moment of averaged patches."""
    patches = by_group(x, draw).mean(-1)
    return torch.einsum("ngp,ngq->gpq", patches, patches) / len(patches)


def adjoint(function: Callable[[Tensor], Tensor], like: Tensor, v: Tensor) -> Tensor:
    """The transpose of a linear function, without conjugation."""
    pullback = torch.func.vjp(function, like)[1]
    (result,) = pullback(v.conj())
    return result.conj()


def like(x: Tensor, v: Tensor) -> Tensor:
    """Zeros of the shape of one tensor and of the dtype of another."""
    return torch.zeros(x.shape, dtype=v.dtype)


# How it is compared.


def agree(got: Tensor, expected: Tensor, scale: Tensor, what: object) -> None:
    """Assert that tensors differ by rounding alone."""
    assert got.shape == expected.shape, what
    assert got.dtype == expected.dtype, what
    error = (got.detach() - expected.detach()).abs()
    assert bool((error <= TOLERANCE * scale.detach()).all()), what


def check(
    oracle: Function, candidates: dict[str, Function], operands: Sequence[Tensor], what: Any, depth: int
) -> None:
    """Compare values and derivatives of functions.

    Args:
        oracle: what they should be.
        candidates: the functions, by name.
        operands: tensors at which all are called.
        what: for the message of a failure.
        depth: 0 for values, 1 for gradients too, 2 for Jacobian-vector products and second derivatives.
    """
    sizes = [x.abs() for x in operands]
    scale = oracle(*sizes)
    leaves = [x.clone().requires_grad_() for x in operands]
    expected = oracle(*leaves)
    assert expected.numel()
    v = direction(expected)
    if depth:
        positive = [x.clone().requires_grad_() for x in sizes]
        wanted = torch.autograd.grad(expected, leaves, v, create_graph=depth > 1)
        bounds = torch.autograd.grad(oracle(*positive), positive, v.abs(), create_graph=depth > 1)
    if depth > 1:
        u = [direction(x) for x in operands]
        moved = torch.func.jvp(oracle, tuple(operands), tuple(u))[1]
        moved_bound = torch.func.jvp(oracle, tuple(sizes), tuple(x.abs() for x in u))[1]
        second = again(wanted, leaves, u)
        second_bound = again(bounds, positive, [x.abs() for x in u])
    for name, candidate in candidates.items():
        label = f"{name} of {what}"
        got = candidate(*leaves)
        agree(got, expected, scale, label)
        if depth:
            found = torch.autograd.grad(got, leaves, v, create_graph=depth > 1)
            for one, other, bound in zip(found, wanted, bounds, strict=True):
                agree(one, other, bound, f"a gradient of {label}")
        if depth > 1:
            agree(
                torch.func.jvp(candidate, tuple(operands), tuple(u))[1],
                moved,
                moved_bound,
                f"a JVP of {label}",
            )
            for one, other, bound in zip(again(found, leaves, u), second, second_bound, strict=True):
                agree(one, other, bound, f"a second derivative of {label}")


def again(gradients: Sequence[Tensor], leaves: Sequence[Tensor], u: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of gradients, zeros where they depend on nothing."""
    parts = [(g, d) for g, d in zip(gradients, u, strict=True) if g.requires_grad]
    if not parts:
        return [torch.zeros_like(x) for x in leaves]
    made = torch.autograd.grad(
        [g for g, _ in parts], leaves, [d for _, d in parts], allow_unused=True, materialize_grads=True
    )
    return list(made)


def direction(like: Tensor) -> Tensor:
    """A fixed tensor of mixed numbers, in the shape of another."""
    numbers = torch.arange(1, like.numel() + 1, dtype=torch.float64)
    real = torch.sin(numbers * 1.7).to(like.dtype).reshape(like.shape)
    return real * (1 - 0.5j) if like.dtype.is_complex else real
