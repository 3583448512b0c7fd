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


def _contest(
    layer: Layer,
    name: str,
    ours: Call,
    expected: Call,
    by_torch: Call | None,
    symbolic: Call,
    peer: Call | None,
) -> Contest:
    calls: dict[str, Call | None] = {OURS: ours, EXPRESSION: symbolic}
    if by_torch is not None:
        calls[name] = by_torch
    if not layer.transposed:
        calls[EINCONV] = peer
    return Contest(calls, expected, {})


def _forward(batch: int, layer: Layer) -> Contest:
    x, weight, _ = layer.operands(batch)
    by_torch, name = native(layer), f"{_prefix(layer)}_forward"
    numbers = layer.numbers()
    return _contest(
        layer,
        _name(layer),
        lambda: _functional(layer, x, weight),
        lambda: oracle.convolution(layer, x.double(), weight.double()),
        None if by_torch is None else lambda: by_torch(x, weight),
        expression(name, x, weight, **numbers),
        einconv_expression(name, x, weight, **numbers),
    )


def _vjp(batch: int, layer: Layer, position: int) -> Contest:
    x, weight, v = layer.operands(batch)
    leaves = [x, weight]
    leaves[position] = leaves[position].detach().requires_grad_()
    out = _functional(layer, leaves[0], leaves[1])
    numbers = layer.numbers()
    if position == 0:
        name = f"{_prefix(layer)}_input_vjp"
        arguments = (weight, v, (layer.size,) * layer.dimensions)
    else:
        name = f"{_prefix(layer)}_weight_vjp"
        arguments = (x, v, (layer.kernel,) * layer.dimensions)
    return _contest(
        layer,
        BACKWARD,
        lambda: torch.autograd.grad(out, leaves[position], v, retain_graph=True)[0],
        lambda: oracle.vjp(layer, x, weight, v, position),
        native_vjp(layer, x, weight, v, position),
        expression(name, *arguments, **numbers),
        einconv_expression(name, *arguments, **numbers),
    )


_OPERATIONS: tuple[tuple[str, Callable[..., Contest]], ...] = (
    ("forward", _forward),
    ("input VJP", partial(_vjp, position=0)),
    ("weight VJP", partial(_vjp, position=1)),
)


def _rows(layers: tuple[Layer, ...]) -> tuple[Row, ...]:
    rows = []
    for layer in layers:
        for operation, build in _OPERATIONS:
            beside = _name(layer) if operation == "forward" else BACKWARD
            times = NEAR
            if layer.dimensions > 3:
                beside, times = EINCONV, FIFTH
            rows.append(
                Row(
                    f"{layer.name}, {operation}",
                    str(layer),
                    partial(build, layer=layer),
                    layer.batch,
                    1,
                    tuple(AtLeast(times, beside, who) for who in (OURS, EXPRESSION)),
                    slow=frozenset({EINCONV}),
                    exact=True,
                )
            )
    return tuple(rows)


CONVOLUTIONS, TRANSPOSES, FOUR = _rows(LAYERS), _rows(TRANSPOSED), _rows(FOUR_DIMENSIONS)
