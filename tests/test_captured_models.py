"""Blocks of well-known models, captured with their convolutions: the same values, and calls that stay."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import einfx
from einfx.optimized import OptimizedModule
from einfx.passes import WITH_CONVOLUTIONS
from einfx.rewrite import readable_code
from tests.rewriting import assert_same


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Plans depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class BasicBlock(nn.Module):
    """ResNet-18: two convolutions, a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class InvertedResidual(nn.Module):
    """MobileNetV2: expand, filter by channel, project."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt: a large filter by channel, then a network for each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x).permute(0, 2, 3, 1)
        out = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(out))))
        return x + out.permute(0, 3, 1, 2)


class Transition(nn.Module):
    """DenseNet: fewer channels, then fewer positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.norm(x))))


class PatchEmbedding(nn.Module):
    """A vision transformer's first layer, with a projection behind."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 256, 8, stride=8, bias=False)
        self.head = nn.Linear(256, 64)
        self.norm = nn.LayerNorm(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.head(self.proj(x).flatten(2).transpose(1, 2)))


class Local(nn.Module):
    """A convolution that is written as unfolding and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16 * 9, 32)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, padding=1)
        out = self.linear(patches.transpose(1, 2)).transpose(1, 2)
        return F.fold(out, x.shape[-2:], 1).relu()


UNTOUCHED: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: BasicBlock(16), (2, 16, 12, 12)),
    (lambda: InvertedResidual(16), (2, 16, 12, 12)),
    (lambda: ConvNeXtBlock(16), (2, 16, 12, 12)),
]
JOINED: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: Transition(64), (4, 64, 28, 28)),
    (PatchEmbedding, (8, 3, 64, 64)),
    (Local, (4, 16, 28, 28)),
]
ALL = UNTOUCHED + JOINED


def made(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor, OptimizedModule]:
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    return model, x, einfx.optimize(model, (x,), passes=WITH_CONVOLUTIONS)


def smaller(x: Tensor) -> list[Tensor]:
    return [x, torch.randn(1, *x.shape[1:]), torch.randn(3, x.shape[1], x.shape[2] - 3, x.shape[3] + 5)]


@pytest.mark.parametrize(("make", "shape"), ALL)
@pytest.mark.parametrize("training", [False, True])
def test_values_gradients_and_state_are_those_of_the_model(
    make: Callable[[], nn.Module], shape: tuple[int, ...], training: bool
) -> None:
    model, x, _ = made(make, shape)
    optimized = einfx.optimize(copy.deepcopy(model), (x,), passes=WITH_CONVOLUTIONS)
    for run in (model, optimized):
        run.train(training).double()
    for given in smaller(x):
        results = []
        for run in (model, optimized):
            leaf = given.double().requires_grad_()
            out = run(leaf + 0)
            run.zero_grad()
            (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
            results.append((out.detach(), leaf.grad, {k: p.grad for k, p in run.named_parameters()}))
        (out, gradient, gradients), (found, its_gradient, its_gradients) = results
        assert_same(found, out)
        assert_same(its_gradient, gradient)
        assert_same(its_gradients, gradients)
    state = model.state_dict()
    assert list(optimized.state_dict()) == list(state)
    for key, value in optimized.state_dict().items():
        assert_same(value, state[key])


@pytest.mark.parametrize(("make", "shape"), UNTOUCHED)
def test_convolutions_with_nothing_beside_them_are_the_very_calls_they_were(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, _, optimized = made(make, shape)
    calls = [str(node.target) for node in optimized.original_graph.nodes if node.op == "call_module"]
    kept = [str(node.target) for node in optimized.graph.nodes if node.op == "call_module"]
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert [name for name in kept if name in convolutions] == [name for name in calls if name in convolutions]
    assert "IndexPattern" not in optimized.code
    declined = {entry.node: entry.reason for entry in optimized.report.passes[0].declined}
    assert len(declined) == len(convolutions)
    assert all(reason == "no linear operation stands next to it" for reason in declined.values())


@pytest.mark.parametrize(("make", "shape"), UNTOUCHED[:2])
def test_a_block_of_native_calls_alone_is_the_same_bit_for_bit(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, x, optimized = made(make, shape)
    assert readable_code(optimized.graph) == readable_code(optimized.original_graph)
    assert torch.equal(optimized(x.clone()), copy.deepcopy(model)(x.clone()))


@pytest.mark.parametrize(("make", "shape"), JOINED)
def test_the_report_says_what_was_captured(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    _, _, optimized = made(make, shape)
    first = optimized.report.passes[0]
    assert (first.name, first.rewrites) == ("capture-convolutions", 1)


@pytest.mark.parametrize(("make", "shape"), ALL)
def test_copies_and_pickles_compute_the_same(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    _, x, optimized = made(make, shape)
    optimized.eval()
    for other in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert_same(other(x), optimized(x))


@pytest.mark.parametrize(("make", "shape"), ALL)
def test_autocast_runs_the_program_as_it_was(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model, x, optimized = made(make, shape)
    model.eval()
    optimized.eval()
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = model(x.clone()), optimized(x.clone())
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("make", "shape"), ALL)
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_is_captured_exports(
    make: Callable[[], nn.Module], shape: tuple[int, ...], dynamic: bool
) -> None:
    model, x, optimized = made(make, shape)
    model.eval()
    optimized.eval()
    sizes = {"x": {0: torch.export.Dim("batch", min=2, max=64)}} if dynamic else None
    exported = torch.export.export(optimized, (x,), dynamic_shapes=sizes, strict=False).module()
    for given in (x, torch.randn(3, *shape[1:])) if dynamic else (x,):
        assert_same(exported(given), model(given))


@pytest.mark.parametrize(("make", "shape"), ALL)
def test_what_is_captured_scripts(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model, x, optimized = made(make, shape)
    model.eval()
    optimized.eval()
    scripted = torch.jit.script(einfx.jitable(optimized))
    for given in smaller(x):
        assert_same(scripted(given), model(given))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_bias_that_is_scaled_scripts(kind: type[nn.Module]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kind(16, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * 0.5

    model, x, optimized = made(Scaled, (4, 16, 28, 28))
    assert optimized.report.passes[0].rewrites == 1
    scripted = torch.jit.script(einfx.jitable(optimized))
    assert_same(scripted(x), model(x))
