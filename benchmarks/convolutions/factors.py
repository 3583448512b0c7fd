"""Rows of Kronecker factors: of averaged patches (KFAC-reduce) and of all patches (KFC)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from einfx import conv

from ..contests.row import OURS, AtLeast, Call, Contest, Row, Within
from . import oracle
from .forms import EINCONV, EXPRESSION, einconv_expression, expression
from .layers import WINDOWS, Layer
from .typical import Typical

__all__ = ["KFAC_REDUCE", "KFC", "TYPICAL"]

MULTIPLIED = "F.unfold, mean, product"
COPIED = "window copy, product"
UNFOLDED = "F.unfold, product"

MEASURED_BYTES = 64 << 20
"""Inputs are so large where memory is measured: beside them, what a process adds is small."""

FEW = 2
"""Inputs of which all patches are multiplied, at most: their products take far longer than the patches."""

OTHERS_TOO = ("resnet18 3x3, 64", "convnext depthwise 7x7", "all-cnn 3x3")
"""Layers on which the memory of the others is measured as well."""


def _second_moment(columns: Tensor, batch: int) -> Tensor:
    """Of columns, shape: (groups, side, number): their products, summed, by batch."""
    if columns.shape[0] == 1:
        return torch.mm(columns[0], columns[0].T).div_(batch)[None]
    return torch.bmm(columns, columns.transpose(1, 2)).div_(batch)


def _kfac_reduce(batch: int, layer: Layer) -> Contest:
    x, _, _ = layer.operands(batch)
    numbers = {"padding": layer.padding, "stride": layer.stride}
    kernel = (layer.kernel,) * layer.dimensions

    def by_torch() -> Tensor:
        mean = F.unfold(x, layer.kernel, **numbers).mean(-1)
        return _second_moment(mean.view(batch, layer.groups, layer.side).permute(1, 2, 0), batch)

    calls: dict[str, Call | None] = {
        OURS: lambda: conv.kfac_reduceNd(x, layer.kernel, groups=layer.groups, **numbers),
        EXPRESSION: expression("convNd_kfac_reduce", x, kernel, groups=layer.groups, **numbers),
        MULTIPLIED: by_torch,
        EINCONV: einconv_expression("convNd_kfac_reduce", x, kernel, groups=layer.groups, **numbers),
    }
    return Contest(calls, lambda: oracle.kfac_reduce(layer, x), {})


def _kfc(batch: int, layer: Layer) -> Contest:
    x, _, _ = layer.operands(batch)
    numbers = {"padding": layer.padding, "stride": layer.stride}
    kernel = (layer.kernel,) * layer.dimensions

    def copied() -> Tensor:
        """Windows (batch, c, o, o, k, k) are copied to (c, k, k, batch, o, o): columns for one product."""
        seen = oracle.windows(layer, x).permute(1, 4, 5, 0, 2, 3).contiguous()
        return _second_moment(seen.view(layer.groups, layer.side, -1), batch)

    def unfolded() -> Tensor:
        columns = F.unfold(x, layer.kernel, **numbers).view(batch, layer.groups, layer.side, -1)
        return _second_moment(columns.permute(1, 2, 0, 3).flatten(2), batch)

    calls: dict[str, Call | None] = {
        OURS: lambda: conv.kfcNd(x, layer.kernel, groups=layer.groups, **numbers),
        EXPRESSION: expression("convNd_kfc", x, kernel, groups=layer.groups, **numbers),
        COPIED: copied,
        UNFOLDED: unfolded,
        EINCONV: einconv_expression("convNd_kfc", x, kernel, groups=layer.groups, **numbers),
    }
    return Contest(calls, lambda: oracle.kfc(layer, x), {})


def _memory_batch(layer: Layer) -> int:
    return -(-MEASURED_BYTES // layer.input_bytes)


def _most_bytes(layer: Layer) -> int:
    """The result, and a quarter of the input."""
    return 4 * layer.groups * layer.side**2 + _memory_batch(layer) * layer.input_bytes // 4


KFAC_REDUCE = tuple(
    Row(
        f"{layer.name}, KFAC-reduce",
        f"{layer.with_batch(layer.unfolded_batch)}; memory with a batch of {_memory_batch(layer)}",
        partial(_kfac_reduce, layer=layer),
        layer.unfolded_batch,
        1,
        (
            *(AtLeast(1, MULTIPLIED, who) for who in (OURS, EXPRESSION)),
            Within(_most_bytes(layer)),
        ),
        slow=frozenset({EINCONV}),
        memory=True,
        memory_size=_memory_batch(layer),
        unmeasured=frozenset(() if layer.name in OTHERS_TOO else {EXPRESSION, MULTIPLIED, EINCONV}),
        exact=True,
    )
    for layer in WINDOWS
)

KFC = tuple(
    Row(
        f"{layer.name}, KFC",
        layer.with_batch(min(FEW, layer.unfolded_batch)),
        partial(_kfc, layer=layer),
        min(FEW, layer.unfolded_batch),
        1,
        tuple(AtLeast(1 / 1.1, COPIED, who) for who in (OURS, EXPRESSION)),
        slow=frozenset({EINCONV}),
        exact=True,
    )
    for layer in WINDOWS
)

_NAMES = frozenset(row.name for row in KFAC_REDUCE)
TYPICAL = (
    Typical("KFAC-reduce", _NAMES, 1 / 0.25, MULTIPLIED),
    Typical("KFAC-reduce", _NAMES, 1 / 0.35, EINCONV),
)
