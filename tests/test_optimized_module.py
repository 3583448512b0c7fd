"""An optimised module is copied, saved, moved, trained and compiled like the module it came from."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import einfx
from tests.program import tensor
from tests.rewriting import assert_same

E = torch.einsum
X = tensor((5, 3), seed=1)


class Block(nn.Module):
    """State of every kind: nested, tied, frozen, unused, persistent and not."""

    mask: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(tensor((3, 4), seed=2))
        self.v = nn.Parameter(tensor((4, 3), seed=3))
        self.tied = self.u
        self.frozen = nn.Parameter(tensor((3, 3), seed=4), requires_grad=False)
        self.unused = nn.Parameter(tensor((2,), seed=5))
        self.register_buffer("mask", tensor((3, 3), seed=6))
        self.register_buffer("scale", tensor((), seed=7), persistent=False)
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.register_buffer("nothing", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = 2 * E("bi,ij,jk->bk", x, self.u, self.v) / 3
        return E("bk,kl,lm->bm", t, self.frozen, self.mask * self.frozen) * self.scale


class Model(nn.Module):
    blocks: Any

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.blocks = nn.ModuleList([Block()])
        self.head = nn.Linear(3, 2, dtype=torch.float64)
        self.spare = nn.Linear(2, 2, dtype=torch.float64)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            for i, parameter in enumerate([*self.head.parameters(), *self.spare.parameters()]):
                parameter.copy_(tensor(parameter.shape, seed=10 + i))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.tanh(self.blocks[0](self.block(x)))))


def model() -> Model:
    return Model().eval()


def optimised() -> einfx.OptimizedModule:
    return einfx.optimize(model(), (X,))


def pickled(module: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, copy.copy, pickled, saved]


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_computes_the_same_and_keeps_state_and_report(duplicate: Callable[[Any], Any]) -> None:
    first = optimised()
    second = duplicate(first)
    assert isinstance(second, einfx.OptimizedModule)
    assert_same(second(X), model()(X))
    assert list(second.state_dict()) == list(first.state_dict())
    assert str(second.report) == str(first.report)
    assert not second.training
    assert second.code == first.code
    third = duplicate(second)
    assert_same(third(X), model()(X))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])
def test_a_copy_is_independent(duplicate: Callable[[Any], Any]) -> None:
    first = optimised()
    second = duplicate(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.zero_()
    assert_same(first(X), model()(X))
    assert float(second(X).detach().abs().max()) == 0.0


def test_the_state_dict_has_the_original_keys_and_values_in_both_directions() -> None:
    original, other = model(), optimised()
    assert dict(other.state_dict()).keys() == dict(original.state_dict()).keys()
    assert_same(dict(sorted(other.state_dict().items())), dict(sorted(original.state_dict().items())))
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.5)
    other.load_state_dict(original.state_dict())
    assert_same(other(X), original(X))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    original.load_state_dict(other.state_dict())
    assert_same(other(X), original(X))


def test_parameters_and_buffers_keep_their_names_their_kinds_and_their_ties() -> None:
    original, other = model(), optimised()
    names = {name: p.requires_grad for name, p in original.named_parameters(remove_duplicate=False)}
    assert {name: p.requires_grad for name, p in other.named_parameters(remove_duplicate=False)} == names
    assert {n for n, _ in other.named_parameters()} == {n for n, _ in original.named_parameters()}
    assert {n for n, _ in original.named_buffers()} <= {n for n, _ in other.named_buffers()}
    block: Any = other.get_submodule("block")
    assert block.tied is block.u
    assert isinstance(block.u, nn.Parameter)


def test_state_is_shared_with_the_model_that_was_optimised() -> None:
    original = model()
    other = einfx.optimize(original, (X,))
    with torch.no_grad():
        original.block.u.mul_(2)
        original.blocks[0].mask.add_(1)
    assert_same(other(X), original(X))


def test_a_change_of_dtype_or_of_device_reaches_everything() -> None:
    single = optimised().to(torch.float32)
    assert single(X.float()).dtype is torch.float32
    assert_same(single(X.float()), model().float()(X.float()))
    assert_same(optimised().float().double()(X), model().float().double()(X))
    assert_same(optimised().half().double()(X), model().half().double()(X))
    meta = optimised().to("meta")
    assert meta(X.to("meta")).shape == (5, 2)


def test_train_and_eval_reach_the_submodules() -> None:
    original = model()
    other = einfx.optimize(original, (X,))
    for train in (True, False, True):
        original.train(train)
        other.train(train)
        torch.manual_seed(3)
        expected = original(X)
        torch.manual_seed(3)
        assert_same(other(X), expected)
    assert other.get_submodule("drop").training


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    lambda p: torch.optim.Adam(p, lr=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_training_takes_the_same_steps(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    target = tensor((5, 2), seed=20)
    losses = []
    for module in (model(), copy.deepcopy(optimised())):
        optimizer = make(module.parameters())
        history = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (module(X) - target).square().mean()
            loss.backward()
            optimizer.step()
            history.append(loss.detach())
        losses.append(torch.stack(history))
    assert_same(losses[1], losses[0], tolerance=1e-10)


def test_gradients_of_gradients_are_those_of_the_original() -> None:
    results = []
    for module in (model(), copy.deepcopy(optimised())):
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        results.append(
            [x.grad, module.get_parameter("block.u").grad, module.get_parameter("head.weight").grad]
        )
    assert_same(results[1], results[0], tolerance=1e-10)


def test_gradcheck_passes_twice() -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * E("bi,ij,bj->b", x, y, x) / 3

    optimised = einfx.optimize(program, (X, tensor((3, 3))))
    arguments = tuple(tensor(s, seed=i).requires_grad_() for i, s in enumerate([(2, 3), (3, 3)]))
    assert torch.autograd.gradcheck(optimised, arguments)
    assert torch.autograd.gradgradcheck(optimised, arguments)


def test_functional_transforms_work() -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * E("i,ij,j->", x, y, x) / 3

    x, y = tensor((3,), seed=1), tensor((3, 3), seed=2)
    optimised = einfx.optimize(program, (x, y))
    assert_same(torch.func.grad(optimised)(x, y), torch.func.grad(program)(x, y))
    assert_same(torch.func.hessian(optimised)(x, y), torch.func.hessian(program)(x, y))
    assert_same(torch.func.jvp(optimised, (x, y), (x, y)), torch.func.jvp(program, (x, y), (x, y)))
    mapped = torch.vmap(optimised, (0, None))
    assert_same(mapped(X, y), torch.vmap(program, (0, None))(X, y))


def test_hooks_on_leaf_modules_run() -> None:
    calls: list[str] = []
    original = model()

    def double(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append("head")
        return output * 2

    original.head.register_forward_hook(double)
    original.drop.register_forward_pre_hook(lambda module, arguments: calls.append("drop"))
    other = einfx.optimize(original, (X,))
    assert calls == []
    got, expected = other(X), original(X)
    assert calls == ["drop", "head"] * 2
    assert_same(got, expected)


def test_hooks_on_the_optimised_module_run() -> None:
    other = optimised()
    other.register_forward_hook(lambda m, args, out: out + 1)
    assert_same(other(X), model()(X) + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtypes_and_values_of_the_original(dtype: torch.dtype) -> None:
    original = model().float()
    other = copy.deepcopy(einfx.optimize(original, (X.float(),)))
    with torch.autocast("cpu", dtype=dtype):
        assert_same(other(X.float()), original(X.float()), tolerance=0.0)
        (got,) = torch.autograd.grad(other(X.float()).float().sum(), [other.get_parameter("block.u")])
        (expected,) = torch.autograd.grad(original(X.float()).float().sum(), [original.block.u])
        assert_same(got, expected, tolerance=0.0)
    assert other(X.float()).dtype is torch.float32


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_without_graph_breaks(backend: str) -> None:
    torch._dynamo.reset()
    other = optimised()
    compiled: Any = torch.compile(other, backend=backend, fullgraph=True)
    assert_same(compiled(X), model()(X))
    compiled(X).sum().backward()
    expected = model()
    expected(X).sum().backward()
    assert_same(other.get_parameter("block.u").grad, expected.block.u.grad)


def test_it_exports_and_the_export_saves(tmp_path: Path) -> None:
    exported = torch.export.export(optimised(), (X,))
    assert_same(exported.module()(X), model()(X))
    torch.export.save(exported, tmp_path / "model.pt2")
    assert_same(torch.export.load(tmp_path / "model.pt2").module()(X), model()(X))


def test_it_runs_under_inference_mode_and_without_gradients() -> None:
    other = optimised()
    with torch.inference_mode():
        assert_same(other(X), model()(X))
    with torch.no_grad():
        assert not other(X).requires_grad
    assert other(X).requires_grad
