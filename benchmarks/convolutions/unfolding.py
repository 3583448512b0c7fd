"""Rows of patches: unfolded, and averaged over output positions."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from einfx import conv

from ..contests.row import OURS, AtLeast, Call, Contest, Row
from . import oracle
from .forms import EINCONV, EXPRESSION, SINGD, einconv_expression, expression, singd_patches
from .layers import WINDOWS, Layer
from .typical import Typical

__all__ = ["AVERAGED", "TYPICAL", "UNFOLDED"]

UNFOLD = "F.unfold"
WRITTEN = "output written"
MEAN = "F.unfold, mean"


def _unfolded(batch: int, layer: Layer) -> Contest:
    x, _, _ = layer.operands(batch)
    shape = layer.patches(batch)
    geometry = layer.kernel, layer.stride, layer.padding
    calls: dict[str, Call | None] = {
        OURS: lambda: conv.unfoldNd(x, layer.kernel, padding=layer.padding, stride=layer.stride),
        EXPRESSION: expression("convNd_unfold", x, (layer.kernel,) * layer.dimensions, *geometry[1:]),
        UNFOLD: lambda: F.unfold(x, layer.kernel, padding=layer.padding, stride=layer.stride),
        EINCONV: einconv_expression("convNd_unfold", x, *geometry),
    }
    limits: dict[str, Call | None] = {WRITTEN: lambda: x.new_empty(shape).fill_(1.0)}
    return Contest(calls, lambda: oracle.patches(layer, x), limits)


def _averaged(batch: int, layer: Layer) -> Contest:
    x, _, _ = layer.operands(batch)
    shape = batch, layer.groups, layer.side
    numbers = {"padding": layer.padding, "stride": layer.stride}

    def by_torch() -> Tensor:
        return F.unfold(x, layer.kernel, **numbers).mean(-1).view(shape)

    calls: dict[str, Call | None] = {
        OURS: lambda: conv.unfoldNd(x, layer.kernel, **numbers, groups=layer.groups, reduce="mean"),
        MEAN: by_torch,
    }
    if layer.groups == 1:  # it averages over groups as well
        extract = singd_patches(layer, x)
        calls[SINGD] = None if extract is None else lambda: extract().view(shape)
    return Contest(calls, lambda: oracle.mean_patches(layer, x), {})


UNFOLDED = tuple(
    Row(
        f"{layer.name}, unfold",
        layer.with_batch(layer.unfolded_batch),
        partial(_unfolded, layer=layer),
        layer.unfolded_batch,
        1,
        tuple(
            target
            for who in (OURS, EXPRESSION)
            for target in (AtLeast(1 / 1.5, WRITTEN, who), AtLeast(1, UNFOLD, who))
        ),
        slow=frozenset({EINCONV}),
        exact=True,
    )
    for layer in WINDOWS
)

AVERAGED = tuple(
    Row(
        f"{layer.name}, averaged patches",
        layer.with_batch(layer.unfolded_batch),
        partial(_averaged, layer=layer),
        layer.unfolded_batch,
        1,
        (AtLeast(1, MEAN),),
        exact=True,
    )
    for layer in WINDOWS
)

_NAMES = frozenset(row.name for row in AVERAGED)
TYPICAL = (
    Typical("averaged patches", _NAMES, 1 / 0.25, MEAN),
    Typical("averaged patches", _NAMES, 1 / 0.35, SINGD),
)
