"""Modules take the place of torch.nn's with all that these hold, and turn back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from einfx.conv.modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd
from einfx.errors import UsageError


def pairs() -> list[tuple[nn.Module, Any, tuple[int, ...]]]:
    return [
        (nn.Conv1d(4, 6, 3, padding="same"), ConvNd, (2, 4, 9)),
        (
            nn.Conv2d(4, 6, (3, 2), stride=2, groups=2, padding_mode="reflect", padding=1),
            ConvNd,
            (2, 4, 9, 8),
        ),
        (nn.Conv3d(2, 3, 2, bias=False), ConvNd, (2, 5, 6, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), ConvTransposeNd, (2, 4, 5, 6)),
        (nn.Unfold(3, padding=1), UnfoldNd, (2, 3, 5, 6)),
        (nn.Unfold((2, 3), dilation=2), UnfoldNd, (3, 5, 6)),
        (nn.Fold(4, 2, stride=2), FoldNd, (2, 12, 4)),
    ]


@pytest.mark.parametrize(("native", "cls", "shape"), pairs(), ids=lambda value: type(value).__name__)
def test_modules_from_torch_share_its_parameters_and_turn_back(
    native: nn.Module, cls: Any, shape: tuple[int, ...]
) -> None:
    native.eval()
    module = cls.from_nn(native)
    x = torch.randn(shape)
    assert type(module) is cls
    assert not module.training
    assert torch.equal(module(x), native(x))
    assert all(a is b for a, b in zip(module.parameters(), native.parameters(), strict=True))
    back = module.to_nn()
    assert type(back) is type(native)
    assert repr(back) == repr(native) or isinstance(native, (nn.Unfold, nn.Fold))
    assert torch.equal(back(x), native(x))
    assert all(a is b for a, b in zip(back.parameters(), native.parameters(), strict=True))


def test_hooks_come_along_and_later_ones_stay_where_they_are_put() -> None:
    native = nn.Conv1d(1, 1, 1)
    native.register_forward_hook(lambda module, args, output: output * 0)
    module = ConvNd.from_nn(native)
    x = torch.ones(1, 1, 3)
    assert not module(x).any()
    module.register_forward_hook(lambda module, args, output: output + 1)
    assert not native(x).any()
    assert module(x).all()


def test_parametrized_weights_stay_parametrized() -> None:
    native = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    module = ConvNd.from_nn(native)
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(module(x), native(x))
    assert list(module.state_dict()) == list(native.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    assert type(module) is ConvNd
    assert torch.equal(module(x), native(x))


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_only_modules_that_compute_the_same_are_taken() -> None:
    with pytest.raises(UsageError, match=r"takes torch\.nn\.Conv1d.*not Linear"):
        ConvNd.from_nn(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"takes torch\.nn\.Fold, not Unfold"):
        FoldNd.from_nn(nn.Unfold(2))
    with pytest.raises(UsageError, match="Doubled is a subclass of Conv2d that defines forward"):
        ConvNd.from_nn(Doubled(1, 1, 1))
    with pytest.raises(UsageError, match="LazyConv2d before its parameters are made"):
        ConvNd.from_nn(nn.LazyConv2d(1, 1))
    with pytest.raises(UsageError, match="4 dimensions"):
        ConvNd(4, 1, 1, 1).to_nn()
    with pytest.raises(UsageError, match="two dimensions, not 3"):
        UnfoldNd((1, 1, 1)).to_nn()
    with pytest.raises(UsageError, match="both sides alike"):
        UnfoldNd((2, 2), padding="same").to_nn()
