"""A converted model computes the same with einsum modules, which keep all that the convolutions had."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import einfx
from einfx.conv.convert import Conversion, convert
from einfx.conv.modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd
from einfx.errors import UsageError


class Net(nn.Module):
    """One of everything, in nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.block = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding="same", groups=8))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.heads = nn.ModuleDict({"a": nn.Conv2d(4, 2, 1), "b": nn.Unfold(2)})
        self.line = nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")
        self.fold = nn.Fold(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.block(self.stem(x)))
        patches = self.heads["b"](self.heads["a"](x))
        return self.line(self.fold(patches).flatten(2))


NAMES = ["stem", "block.2", "up", "heads.a", "heads.b", "line", "fold"]


def net() -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return Net().eval(), torch.randn(2, 3, 7, 7)


def test_the_model_computes_the_same_and_says_what_was_replaced() -> None:
    model, x = net()
    model.fold = nn.Fold(8, 2)
    x = torch.randn(2, 3, 8, 8)
    expected, state = model(x), model.state_dict()
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    converted = convert(model)
    assert converted is model
    assert torch.equal(model(x), expected)
    report: Any = model.einfx_conversion
    assert report == Conversion(NAMES, {})
    kinds = [type(model.get_submodule(name)) for name in NAMES]
    assert kinds == [ConvNd, ConvNd, ConvTransposeNd, ConvNd, UnfoldNd, ConvNd, FoldNd]
    assert [name for name, _ in model.named_parameters()] == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)


def test_converting_again_replaces_nothing() -> None:
    model, _ = net()
    convert(convert(model))
    assert model.einfx_conversion == Conversion([], {})


def test_gradients_reach_the_parameters_an_optimizer_holds() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.LazyLinear(1))
    x = torch.randn(4, 2, 5)
    model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in model.parameters()]
    convert(model)(x).sum().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_module_under_two_names_stays_one_module() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared))
    convert(model)
    assert model[0] is model[1][1]  # type: ignore[index]
    assert type(model[0]) is ConvNd
    assert model.einfx_conversion.replaced == ["0", "1.1"]  # type: ignore[union-attr]


def test_parameters_that_two_modules_share_stay_shared() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    convert(model)
    assert model[0].weight is model[1].weight


def test_the_model_may_be_a_convolution_itself() -> None:
    conv = nn.Conv3d(1, 2, 2)
    x = torch.randn(1, 1, 3, 3, 3)
    expected = conv(x)
    converted = convert(conv)
    assert type(converted) is ConvNd
    assert torch.equal(converted(x), expected)
    assert str(converted.einfx_conversion) == "replaced 1: the model itself\nkept 0"


def test_training_flags_and_requires_grad_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1).eval())
    model[0].weight.requires_grad_(False)
    convert(model)
    assert model[0].training
    assert not model[1].training
    assert not model[0].weight.requires_grad


def test_hooks_are_kept_and_their_handles_still_remove_them() -> None:
    conv = nn.Conv2d(1, 1, 1)
    seen: list[str] = []
    handles = [
        conv.register_forward_pre_hook(lambda module, args: seen.append(f"before {type(module).__name__}")),
        conv.register_forward_hook(lambda module, args, output: seen.append("after")),
        conv.register_full_backward_hook(lambda module, inputs, outputs: seen.append("backward")),
    ]
    model = convert(nn.Sequential(conv))
    model(torch.ones(1, 1, 2, 2, requires_grad=True)).sum().backward()
    assert seen == ["before ConvNd", "after", "backward"]
    for handle in handles:
        handle.remove()
    model(torch.ones(1, 1, 2, 2))
    assert len(seen) == 3


def test_weight_norm_and_pruning_are_kept() -> None:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        prune.l1_unstructured(nn.Conv2d(4, 4, 3), "weight", 0.5),
        parametrizations.spectral_norm(nn.ConvTranspose2d(4, 2, 3)),
    ).eval()
    x = torch.randn(1, 3, 6, 6)
    expected, keys = model(x), list(model.state_dict())
    convert(model)
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == keys
    assert all(isinstance(model[i], (ConvNd, ConvTransposeNd)) for i in range(3))
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is ConvNd
    assert torch.equal(model(x), expected)


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


class Padded(nn.Conv2d):
    """Only other arguments."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)


def test_subclasses_with_a_forward_of_their_own_are_left_alone_and_reported() -> None:
    model = nn.Sequential(Standardized(1, 1, 1), Padded(1), nn.Conv2d(1, 1, 1))
    model[2].forward = lambda x: x
    x = torch.randn(1, 1, 4, 4)
    expected = model(x)
    convert(model)
    assert [type(module) for module in model] == [Standardized, ConvNd, nn.Conv2d]
    report: Any = model.einfx_conversion
    assert report.replaced == ["1"]
    assert report.kept == {
        "0": "Standardized is a subclass of Conv2d that defines forward",
        "2": "its forward was replaced",
    }
    assert str(report).endswith("2 (its forward was replaced)")
    assert torch.equal(model(x), expected)


def test_lazy_modules_are_refused_before_anything_is_replaced() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LazyConv2d(2, 1))
    with pytest.raises(UsageError, match=r"can't take 1, a LazyConv2d .*call the model once"):
        convert(model)
    assert type(model[0]) is nn.Conv2d
    x = torch.randn(1, 1, 3, 3)
    expected = model(x)
    assert torch.equal(convert(model)(x), expected)
    assert type(model[1]) is ConvNd


def test_scripted_parts_are_left_alone_and_scripted_models_refused() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1)))
    model = nn.Sequential(nn.Conv2d(1, 1, 1), scripted)
    convert(model)
    assert model.einfx_conversion == Conversion(["0"], {"1.0": "it is scripted"})
    with pytest.raises(UsageError, match="before it is scripted"):
        convert(scripted)
    with pytest.raises(UsageError, match=r"takes a torch\.nn\.Module, not int"):
        convert(3)  # type: ignore[arg-type]


def test_converted_models_copy_pickle_script_trace_export_and_compile() -> None:
    model, _ = net()
    model.fold = nn.Fold(8, 2)
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    convert(model)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)
    for program in (
        torch.jit.script(model),
        torch.export.export(model, (x,)).module(),
        torch.compile(model, fullgraph=True, backend="aot_eager"),
        einfx.optimize(model, (x,)),
    ):
        torch.testing.assert_close(program(x), expected)


def test_what_was_converted_turns_back() -> None:
    model, _ = net()
    convert(model)
    assert type(model.stem.to_nn()) is nn.Conv2d  # type: ignore[operator]
    assert model.up.to_nn().weight is model.up.weight  # type: ignore[operator]
