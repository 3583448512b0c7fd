"""Rows of convolutions and their VJPs: of layers, transposed ones, and ones of four dimensions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from einfx import conv

from ..contests.row import OURS, AtLeast, Call, Contest, Row
from . import oracle
from .forms import BACKWARD, EINCONV, EXPRESSION, einconv_expression, expression, native, native_vjp
from .layers import FOUR_DIMENSIONS, LAYERS, TRANSPOSED, Layer

__all__ = ["CONVOLUTIONS", "FOUR", "TRANSPOSES"]

NEAR = 1 / 1.05
"""The least speed beside torch's own."""

FIFTH = 5.0
"""The least speed beside einconv, which takes any number of dimensions as well."""


def _functional(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    function = conv.conv_transposeNd if layer.transposed else conv.convNd
    result: Tensor = function(x, weight, None, **layer.numbers())
    return result


def _prefix(layer: Layer) -> str:
    return "conv_transposeNd" if layer.transposed else "convNd"


def _name(layer: Layer) -> str:
    """What torch calls the convolution."""
    return f"F.conv{'_transpose' * layer.transposed}{layer.dimensions}d"


def _autograd(layer: Layer) -> str:
    return f"autograd of {_name(layer)}"


def _contest(layer: Layer, calls: dict[str, Call | None], expected: Call) -> Contest:
    """Without what torch has none of for so many dimensions, and einconv none of for transposed ones."""
    lacking = {EINCONV} if layer.transposed else set()
    if native(layer) is None:
        lacking |= {_name(layer), _autograd(layer), BACKWARD}
    return Contest({name: call for name, call in calls.items() if name not in lacking}, expected, {})


def _forward(batch: int, layer: Layer) -> Contest:
    x, weight, _ = layer.operands(batch)
    by_torch, name = native(layer), f"{_prefix(layer)}_forward"
    numbers = layer.numbers()
    calls: dict[str, Call | None] = {
        OURS: lambda: _functional(layer, x, weight),
        EXPRESSION: expression(name, x, weight, **numbers),
        _name(layer): None if by_torch is None else lambda: by_torch(x, weight),
        EINCONV: einconv_expression(name, x, weight, **numbers),
    }
    return _contest(layer, calls, lambda: oracle.convolution(layer, x.double(), weight.double()))


def _vjp(batch: int, layer: Layer, position: int) -> Contest:
    x, weight, v = layer.operands(batch)
    by_torch, numbers = native(layer), layer.numbers()
    if position == 0:
        name = f"{_prefix(layer)}_input_vjp"
        arguments = (weight, v, (layer.size,) * layer.dimensions)
    else:
        name = f"{_prefix(layer)}_weight_vjp"
        arguments = (x, v, (layer.kernel,) * layer.dimensions)
    calls: dict[str, Call | None] = {
        OURS: _backward(partial(_functional, layer), x, weight, v, position),
        EXPRESSION: expression(name, *arguments, **numbers),
        _autograd(layer): None if by_torch is None else _backward(by_torch, x, weight, v, position),
        BACKWARD: native_vjp(layer, x, weight, v, position),
        EINCONV: einconv_expression(name, *arguments, **numbers),
    }
    return _contest(layer, calls, lambda: oracle.vjp(layer, x, weight, v, position))


def _backward(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, v: Tensor, position: int
) -> Call:
    """The backward pass to one operand, of a forward pass that was."""
    leaves = [x.detach(), weight.detach()]
    leaf = leaves[position].requires_grad_()
    out = function(leaves[0], leaves[1])
    return lambda: torch.autograd.grad(out, leaf, v, retain_graph=True)[0]


_OPERATIONS: tuple[tuple[str, Callable[..., Contest]], ...] = (
    ("forward", _forward),
    ("input VJP", partial(_vjp, position=0)),
    ("weight VJP", partial(_vjp, position=1)),
)


def _rows(layers: tuple[Layer, ...]) -> tuple[Row, ...]:
    rows = []
    for layer in layers:
        for operation, build in _OPERATIONS:
            beside = dict.fromkeys((OURS, EXPRESSION), _name(layer))
            if operation != "forward":
                beside = {OURS: _autograd(layer), EXPRESSION: BACKWARD}
            if native(layer) is None:
                beside = dict.fromkeys(beside, EINCONV)
            times = FIFTH if native(layer) is None else NEAR
            rows.append(
                Row(
                    f"{layer.name}, {operation}",
                    str(layer),
                    partial(build, layer=layer),
                    layer.batch,
                    1,
                    tuple(AtLeast(times, than, who) for who, than in beside.items()),
                    slow=frozenset({EINCONV}),
                    exact=True,
                )
            )
    return tuple(rows)


CONVOLUTIONS, TRANSPOSES, FOUR = _rows(LAYERS), _rows(TRANSPOSED), _rows(FOUR_DIMENSIONS)
