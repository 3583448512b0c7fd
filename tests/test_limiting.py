"""Optimised models stay within their memory limit, for the example inputs and for others."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import einfx
from einfx.errors import CaptureError, MemoryLimitError, UsageError
from einfx.limiting import takes_less_when_smaller
from tests.equivalence import assert_equivalent
from tests.measuring import allocated_bytes
from tests.program import Program, tensor
from tests.rewriting import assert_same
from tests.strategies import programs

E = torch.einsum
SLACK = 1000
"""What alignment and numbers as tensors may add."""


class Bilinear(nn.Module):
    """Products of all pairs of features, which are larger than everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor((12, 20, 20), seed=1))
        self.norm = nn.LayerNorm(12, dtype=torch.float64)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = E("bi,bj->bij", x, y)
        mixed: Tensor = self.norm(E("bij,oij,bk->bo", pairs, self.weight, y.exp()))
        return mixed


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return E("qk,kd->qd", E("qd,kd->qk", q, k), v)


def _triangles(a: Tensor) -> Tensor:
    return E("ij,jk,ki->", a, a, a)


def _two(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    first = E("bi,ij,jk->bk", x, w, v).relu()
    second = E("bi,ij,jk->bk", x.flip(0), w, v.cos()).relu()
    return first.sum(0) + second.sum(0)


MODELS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "a module": (Bilinear(), (tensor((50, 20), seed=2), tensor((50, 20), seed=3))),
    "linear attention": (_attention, (tensor((90, 8)), tensor((90, 8), seed=1), tensor((90, 8), seed=2))),
    "triangles": (_triangles, (tensor((60, 60)),)),
    "two parts": (_two, (tensor((100, 10)), tensor((10, 30), seed=1), tensor((30, 50), seed=2))),
    "a sum over logarithms": (
        lambda a, b, c: einfx.einsum("ij,jk,kl->il", a.sin(), b, c, semiring="log"),
        (tensor((60, 50)), tensor((50, 40), seed=1), tensor((40, 3), seed=2)),
    ),
    "a convolution": (
        lambda x, w: einfx.einsum("nci,koi,dck->ndo", x.exp(), einfx.IndexPattern(60, 5), w).relu(),
        (tensor((8, 6, 60)), tensor((3, 6, 5), seed=1)),
    ),
}  # fmt: skip


def _needed(model: Any, inputs: tuple[Tensor, ...]) -> int:
    """The least limit that errors lead to."""
    with pytest.raises(MemoryLimitError) as caught:
        einfx.optimize(model, inputs, memory_limit=1)
    assert caught.value.needed_bytes is not None
    return caught.value.needed_bytes


@pytest.mark.parametrize("name", MODELS)
def test_a_model_stays_within_its_limit_and_the_least_is_enough(name: str) -> None:
    model, inputs = MODELS[name]
    with torch.no_grad():
        expected = model(*inputs)
        least, whole = _needed(model, inputs), allocated_bytes(model, *inputs)
        einfx.optimize(model, inputs, memory_limit=least)
        for limit in ((least + whole) // 2, whole + least):
            limited = einfx.optimize(model, inputs, memory_limit=limit)
            assert_same(limited(*inputs), expected)
            assert allocated_bytes(limited, *inputs) <= limit + SLACK
            assert limited.report.memory is not None
            assert limited.report.memory.bytes_after <= limit


def test_larger_inputs_get_a_program_of_their_own_within_the_same_limit() -> None:
    limit = 100_000
    limited = einfx.optimize(_triangles, (tensor((60, 60)),), memory_limit=limit)
    assert limited.report.memory is not None
    assert limited.report.memory.cuts == ()
    for size in (61, 200, 60, 120, 200):
        a = tensor((size, size), seed=size)
        assert_same(limited(a), _triangles(a))
        assert allocated_bytes(limited, a) <= limit + SLACK


def test_inputs_that_cannot_fit_are_refused_and_others_still_run() -> None:
    limited = einfx.optimize(lambda x: x.exp().flip(0), (tensor((100,)),), memory_limit=2000)
    with pytest.raises(MemoryLimitError, match=r"flip at .*test_limiting.*needs 3200 bytes"):
        limited(tensor((200,)))
    assert limited(tensor((50,))).shape == (50,)


def test_without_example_inputs_the_first_call_is_planned() -> None:
    limited = einfx.optimize(_triangles, memory_limit=20_000)
    a = tensor((150, 150))
    assert_same(limited(a), _triangles(a))
    assert allocated_bytes(limited, a) <= 20_000 + SLACK


def test_keyword_arguments_and_lists_are_planned_too() -> None:
    def program(xs: list[Tensor], scale: float = 1.0) -> Tensor:
        return E("ij,jk,ki->", xs[0], xs[1], xs[0]) * scale

    a = tensor((100, 100))
    limited = einfx.optimize(program, ([a, a],), {"scale": 2.0}, memory_limit=30_000)
    assert_same(limited([a, a], scale=2.0), program([a, a], 2.0))
    assert_same(limited(xs=[a, a], scale=3.0), program([a, a], 3.0))
    assert allocated_bytes(lambda: limited([a, a], scale=2.0)) <= 30_000 + SLACK


def test_copies_and_pickles_keep_the_limit() -> None:
    model, inputs = Bilinear(), (tensor((50, 20), seed=2), tensor((50, 20), seed=3))
    limited = einfx.optimize(model, inputs, memory_limit=60_000)
    larger = tensor((70, 20), seed=4), tensor((70, 20), seed=5)
    for other in (copy.deepcopy(limited), copy.copy(limited), pickle.loads(pickle.dumps(limited))):
        with torch.no_grad():
            assert_same(other(*larger), model(*larger))
            assert allocated_bytes(other, *larger) <= 60_000 + SLACK
        assert other.report.memory == limited.report.memory
        assert other.state_dict().keys() == model.state_dict().keys()


def test_a_conversion_is_planned_again() -> None:
    limited = einfx.optimize(_Scaled(), (torch.ones(60, 60),), memory_limit=18_000)
    assert limited.report.memory is not None
    limited.double()
    a = tensor((60, 60))
    with torch.no_grad():
        assert_same(limited(a), _Scaled().double()(a))
        assert allocated_bytes(limited, a) <= 18_000 + SLACK


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(60))

    def forward(self, a: Tensor) -> Tensor:
        return E("ij,jk,ki,i->", a, a, a, self.scale)


def test_gradients_are_those_of_the_model_with_every_contraction_within_the_limit() -> None:
    model, inputs = Bilinear(), (tensor((50, 20), seed=2), tensor((50, 20), seed=3))
    weights = tensor((50, 12), seed=7)
    (model(*inputs) * weights).sum().backward()
    wanted = copy.deepcopy(model.weight.grad)
    for limit in (300_000, 60_000):
        limited = einfx.optimize(model, inputs, memory_limit=limit)
        limited.zero_grad()
        (limited(*inputs) * weights).sum().backward()
        assert_same(limited.weight.grad, wanted)


def test_hooks_run_with_programs_for_other_sizes() -> None:
    limited = einfx.optimize(_triangles, (tensor((60, 60)),), memory_limit=30_000)
    seen: list[float] = []
    limited.register_forward_hook(lambda module, args, result: seen.append(result.item()))
    a = tensor((100, 100))
    assert limited(a).item() == seen[0]


def test_constants_that_another_size_folds_follow_their_sources() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", tensor((30, 30), seed=9))

        def forward(self, a: Tensor) -> Tensor:
            return E("ij,jk,kl,li->", a, self.table, self.table, a.t())

    model = Model()
    limited = einfx.optimize(model, (tensor((40, 30)),), constants=("table",), memory_limit=40_000)
    for scale in (1.0, 2.0):
        model.get_buffer("table").mul_(scale)
        for size in (40, 300):
            a = tensor((size, 30), seed=size)
            assert_same(limited(a), model(a))


def test_under_autocast_the_original_runs_where_it_fits() -> None:
    a = torch.ones(60, 60)
    limited = einfx.optimize(_triangles, (a,), memory_limit=100_000)
    with torch.autocast("cpu"):
        assert limited(a).shape == ()
        with pytest.raises(MemoryLimitError, match="under autocast"):
            limited(torch.ones(200, 200))


def test_a_program_scripts_where_nothing_has_a_limit_and_is_refused_where_something_has() -> None:
    a = tensor((60, 60))
    free = einfx.jitable(einfx.optimize(_triangles, (a,), memory_limit=100_000))
    assert_same(torch.jit.script(free)(a), _triangles(a))
    with pytest.raises(einfx.EinfxError, match="memory_limit"):
        einfx.jitable(einfx.optimize(_triangles, (a,), memory_limit=10_000))


def _exported(module: Any, a: Tensor) -> Any:
    return torch.export.export(module, (a,)).module()


def _saved(module: Any, a: Tensor) -> Any:
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (a,), strict=True), file)
    file.seek(0)
    return torch.export.load(file).module()


def _compiled(module: Any, a: Tensor) -> Any:
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def _recorded(module: Any, a: Tensor) -> Any:
    return torch.jit.trace(module, (a,))


@pytest.mark.parametrize("form", [_exported, _saved, _compiled, _recorded])
def test_contractions_in_blocks_are_exported_compiled_and_recorded_within_their_limit(form: Any) -> None:
    a = tensor((60, 60))
    module = form(einfx.optimize(_triangles, (a,), memory_limit=10_000), a)
    with torch.no_grad():
        assert_same(module(a), _triangles(a))
    assert allocated_bytes(module, a) <= 10_000 + SLACK
    leaf = a.clone().requires_grad_()
    with pytest.raises(MemoryLimitError, match="with its gradients"):
        module(leaf).backward()


def test_a_semiring_without_an_operator_says_that_capture_needs_more() -> None:
    a, b = tensor((100, 100)), tensor((100, 100), seed=1)

    def program(a: Tensor, b: Tensor) -> Tensor:
        return einfx.einsum("ij,jk,kl->", a, b, a, semiring="log", memory_limit=20_000)

    assert program(a, b).shape == ()
    with pytest.raises(MemoryLimitError, match="exported or traced; called outside of that it may need less"):
        torch.jit.trace(program, (a, b))


def test_a_limit_needs_its_pass() -> None:
    with pytest.raises(UsageError, match="LimitMemory"):
        einfx.optimize(_triangles, memory_limit=100, passes=())


def test_values_that_are_too_large_to_keep_are_computed_again_for_each_use() -> None:
    def program(a: Tensor, b: Tensor) -> Tensor:
        large = E("ik,jk->ij", a, b)
        return E("ij,jk->ik", large, b) + E("ij,ik->jk", large, a)

    a, b = tensor((200, 5)), tensor((200, 5), seed=1)
    limited = einfx.optimize(program, (a, b), memory_limit=200 * 200 * 4)
    assert_same(limited(a, b), program(a, b))
    assert allocated_bytes(limited, a, b) <= 200 * 200 * 4 + SLACK


def test_contractions_that_are_better_apart_than_as_one_stay_apart() -> None:
    weight = tensor((64, 64))

    def program(x: Tensor) -> Tensor:
        left, right = (x @ weight).relu(), E("bi,ij->bj", (x @ weight.T).tanh(), weight)
        return E("bi,ij->bj", left + right, E("bi,bj->ij", left, right))

    x = tensor((128, 64), seed=1)
    with torch.no_grad():
        whole = allocated_bytes(program, x)
        for limit in (_needed(program, (x,)), whole - 1, whole, whole + 1):
            limited = einfx.optimize(program, (x,), memory_limit=limit)
            assert_same(limited(x), program(x))
            assert allocated_bytes(limited, x) <= limit + SLACK


def test_graphs_that_compute_with_sizes_may_take_more_when_smaller() -> None:
    assert takes_less_when_smaller(torch.fx.symbolic_trace(_triangles).graph)
    growing = torch.fx.symbolic_trace(lambda x: torch.zeros(100 // x.size(0)))
    assert not takes_less_when_smaller(growing.graph)


@pytest.mark.parametrize("flavour", ["contractions", "views", "mutations", "patterns"])
def test_random_programs_equal_eager_or_say_that_they_cannot_fit(flavour: str) -> None:
    @given(programs(flavour), st.sampled_from((1.0, 0.8, 0.5)))
    @settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def check(program: Program, fraction: float) -> None:
        try:
            limit = int(allocated_bytes(program.model(oracle=True), *program.arguments()) * fraction)
            limited = einfx.optimize(program.model(), program.arguments(), memory_limit=limit)
        except (CaptureError, MemoryLimitError):
            assume(False)
        for batch, gradients in ((5, False), (5, True), (8, False)):
            try:
                with torch.set_grad_enabled(gradients):
                    assert_equivalent(program, limited, batch=batch, gradients=gradients)
            except AssertionError as error:
                if not isinstance(error.__cause__, MemoryLimitError):
                    raise

    check()


def test_a_limited_module_is_saved_and_loaded_by_torch() -> None:
    a = tensor((100, 100))
    limited = einfx.optimize(_triangles, (a,), memory_limit=30_000)
    file = io.BytesIO()
    torch.save(limited, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=False)(a), _triangles(a))


def test_where_only_gradients_leave_no_room_the_error_says_so() -> None:
    limited = einfx.optimize(_row_sums, (torch.ones(100, 100),), memory_limit=20_000)
    with torch.no_grad():
        assert limited(torch.ones(100, 100)).shape == (100,)
    recorded = torch.ones(100, 100, requires_grad=True)
    with pytest.raises(MemoryLimitError, match=r"with its gradients: .* call it under torch.no_grad\(\)"):
        limited(recorded)


def _row_sums(x: Tensor) -> Tensor:
    return torch.einsum("ij,kj->i", x, x)
