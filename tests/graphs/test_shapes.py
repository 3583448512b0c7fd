"""Shapes are found without running the model or touching its state; where they can't be, that is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import einfx
from einfx.capture import capture
from einfx.errors import OperandError
from einfx.graphs.nodes import Value, as_contraction, value_of
from einfx.graphs.shapes import propagate
from tests.program import tensor

E = torch.einsum
A, B = tensor((2, 3), torch.float32), tensor((3, 4), torch.float32)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Torch logs a traceback wherever fakes meet an error."""
    caplog.set_level("CRITICAL", logger="torch._subclasses.fake_tensor")


def known(program: Callable[..., Any], *examples: Any) -> dict[str, Value]:
    """What is known of each node of a program."""
    traced = fx.symbolic_trace(program)
    propagate(traced, examples)
    return {node.name: value for node in traced.graph.nodes if (value := value_of(node)) is not None}


PROGRAMS: list[Callable[..., torch.Tensor]] = [
    lambda a, b: a @ b,
    lambda a, b: E("ij,jk->ki", a, b),
    lambda a, b: E("ij,jk,jl->kil", a, b, b),
    lambda a, b: (a @ b).t(),
    lambda a, b: a[:, None] * b.t()[None],
    lambda a, b: a.reshape(a.shape[0] * a.shape[1]),
    lambda a, b: a.view(-1).sum(),
    lambda a, b: a.double() + 1,
    lambda a, b: a > 0,
    lambda a, b: torch.cat([a, a], dim=-1),
    lambda a, b: F.softmax(a @ b, dim=-1).transpose(0, 1),
    lambda a, b: torch.where(a > 0, a, 0.0),
    lambda a, b: a.clone().add_(1).mul_(2),
    lambda a, b: a.new_zeros(a.shape[0], 5),
    lambda a, b: torch.linalg.inv(a @ a.t()),
    lambda a, b: a.expand(7, 2, 3),
    lambda a, b: a.max(dim=0).values,
    lambda a, b: torch.zeros(2, 3).to(a),
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("strided", [False, True])
def test_shape_strides_and_dtype_of_the_result_are_those_of_eager_mode(
    program: Callable[..., torch.Tensor], strided: bool
) -> None:
    a = tensor((2, 3), torch.float32, layout="strided" if strided else "contiguous")
    if strided and program in (PROGRAMS[6],):
        pytest.skip("a view of strided memory fails in eager mode too")
    expected = program(a, B)
    value = list(known(program, a, B).values())[-1]
    assert value.shape == tuple(expected.shape)
    assert value.dtype == expected.dtype
    assert value.device == expected.device
    if "jl" not in str(program.__code__.co_consts):
        assert value.strides == expected.stride()


def test_every_node_with_a_tensor_has_a_value() -> None:
    assert list(known(lambda a, b: (a @ b).exp() * a.shape[0], A, B)) == ["a", "b", "matmul", "exp", "mul"]


def test_nothing_is_computed_so_sizes_may_be_huge() -> None:
    huge = torch.ones(1).expand(10**7, 10**7)
    assert known(lambda a: E("ij,jk,kl->il", a, a, a), huge)["einsum"].shape == (10**7, 10**7)
    assert known(lambda a: a.exp().add_(1) @ a, huge)["matmul"].shape == (10**7, 10**7)


def test_the_state_of_modules_is_neither_changed_nor_replaced() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    traced = fx.symbolic_trace(model)
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    propagate(traced, (A,))
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert type(value) is torch.Tensor
        assert torch.equal(value, before[name]), name


def test_a_value_that_is_resized_in_place_is_not_known() -> None:
    def program(a: torch.Tensor) -> torch.Tensor:
        scaled = 2 * a
        scaled.t_()
        return scaled.exp()

    found = known(program, A)
    assert "mul" not in found
    assert found["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("program", "node"),
    [
        (lambda a: a.sum().item() * a, "item"),
        (lambda a: a[a > 0], "getitem"),
        (lambda a: a.nonzero(), "nonzero"),
        (lambda a: torch.unique(a), "unique"),
    ],
)
def test_what_depends_on_data_is_left_unknown_with_the_reason(program: Callable[..., Any], node: str) -> None:
    traced = fx.symbolic_trace(program)
    (reason,) = propagate(traced, (A,))
    assert reason.startswith(f"{node}: its shape depends on data")
    assert value_of(next(n for n in traced.graph.nodes if n.name == node)) is None
    assert value_of(next(iter(traced.graph.nodes))) is not None


@fx.wrap
def unknown_function(x: torch.Tensor) -> torch.Tensor:
    """Fails without data."""
    return torch.from_numpy(x.numpy().copy())


def test_a_function_that_fails_on_fakes_leaves_its_result_unknown() -> None:
    traced = fx.symbolic_trace(lambda a: unknown_function(a) + a.exp())
    reasons = propagate(traced, (A,))
    assert len(reasons) == 1
    assert "unknown_function" in reasons[0]
    found = {n.name: value_of(n) for n in traced.graph.nodes}
    assert found["exp"] is not None
    assert found["add"] is None


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (lambda a, b: E("ij,jk->ik", a, a), ("einsum", "3", "2")),
        (lambda a, b: E("ij,jk,kl->il", a, b, a), ("einsum", "4", "2")),
        (lambda a, b: b @ a, ("matmul", "4", "2")),
        (lambda a, b: a.view(5), ("view", "5")),
        (lambda a, b: a.sum(7), ("sum", "7")),
    ],
)
def test_examples_that_do_not_fit_are_refused_with_sizes(
    program: Callable[..., Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(OperandError) as caught:
        propagate(fx.symbolic_trace(program), (A, B))
    for word in words:
        assert word in str(caught.value)


def test_examples_that_do_not_fit_are_refused_with_the_line() -> None:
    class Model(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return b.exp() @ a

    traced = capture(Model(), record_stacks=True)
    with pytest.raises(OperandError, match=r"test_shapes\.py:\d+: .*b\.exp\(\) @ a"):
        propagate(traced, (A, B))


def test_an_argument_without_an_example_and_without_a_default_is_named() -> None:
    with pytest.raises(OperandError, match="no example for argument 'b'"):
        propagate(fx.symbolic_trace(lambda a, b: a @ b), (A,))


def test_an_argument_without_an_example_takes_its_default() -> None:
    def program(a: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return a * scale

    assert known(program, A)["mul"].shape == (2, 3)


def test_trees_of_tensors_are_examples_too() -> None:
    found = known(lambda pair, named: pair[0] @ named["b"], (A, 3), {"b": B})
    assert found["matmul"].shape == (2, 4)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: einfx.einsum("ij,jk->ki", a, b, semiring="log"),
        lambda a, b: einfx.einsum("ij,jk->ki", a.abs(), b.abs(), semiring="max_times"),
        lambda a, b: einfx.einsum("ij,jk->ik", a > 0, b > 0, semiring="boolean"),
        lambda a, b: einfx.einsum("...j,jk", a, b.double(), semiring="max_plus"),
        lambda a, b: einfx.einsum(",jk->kj", a.double()[0, 0], b, semiring="max_plus"),
        lambda a, b: einfx.einsum(",->", a[0, 0].double(), b[0, 0], semiring="max_plus"),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="min_plus", optimize="greedy"),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, memory_limit="1MiB"),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="max_plus", return_argmax=True)[0],
        lambda a, b: einfx.einsum("ij,jk->i", a, b, semiring="max_plus", return_argmax=True)[1],
        lambda a, b: einfx.einsum("ij->ji", a, semiring="log") + a.t(),
    ],
)
def test_contractions_over_semirings_have_the_shapes_and_dtypes_that_they_have_when_run(
    program: Callable[..., torch.Tensor], strided: bool
) -> None:
    a, b = (A.t().contiguous().t(), B.t().contiguous().t()) if strided else (A, B)
    expected = program(a, b)
    values = known(program, a, b)
    value = list(values.values())[-1]
    assert (value.shape, value.dtype, value.device) == (expected.shape, expected.dtype, expected.device)
    if expected.is_contiguous():
        assert value.strides == expected.stride()


def test_operands_that_do_not_fit_a_contraction_over_a_semiring_are_refused() -> None:
    with pytest.raises(OperandError, match="label"):
        known(lambda a, b: einfx.einsum("ij,kj->ik", a, b, semiring="log"), A, B)


def test_a_contraction_with_patterns_has_the_strides_that_it_has_in_eager_mode() -> None:
    dense, sliding = einfx.IndexPattern(28, 2, 2), einfx.IndexPattern(28, 3, padding=1)
    x, small, large = torch.ones(4, 32, 28, 28), torch.ones(64, 32, 2, 2), torch.ones(32, 32, 3, 3)

    def program(x: torch.Tensor, small: torch.Tensor, large: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            einfx.einsum("ncij,koi,lpj,dckl->ndop", x, dense, dense, small),
            einfx.einsum("ncij,koi,lpj,dckl->opnd", x, sliding, sliding, large),
            einfx.einsum("ncij,koi,lpj->nckl", x, sliding, sliding),
        )

    traced = fx.symbolic_trace(program)
    assert propagate(traced, (x, small, large)) == []
    nodes = [node for node in traced.graph.nodes if as_contraction(node) is not None]
    for node, result in zip(nodes, program(x, small, large), strict=True):
        value = value_of(node)
        assert value is not None
        assert (value.shape, value.strides) == (result.shape, result.stride())
        assert (value.dtype, value.device) == (result.dtype, result.device)


def test_a_pattern_that_doesnt_fit_is_refused_with_its_line() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(einfx.IndexPattern, (graph.call_method("size", (x, 0)), 3)))
    with pytest.raises(OperandError, match="kernel size can't be greater than the padded input"):
        propagate(fx.GraphModule(torch.nn.Module(), graph), (torch.ones(2),))
