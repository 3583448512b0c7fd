"""Models, functions and graphs become graphs of their own, and what can't be is said with its line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from einfx.capture import bind_arguments, capture
from einfx.errors import CaptureError, UsageError
from einfx.optimized import OptimizedModule
from einfx.rewrite import readable_code
from tests.rewriting import assert_same

X = torch.rand(2, 3)


class Scaled(nn.Module):
    """A parameter, two buffers of which one isn't saved, and a plain tensor."""

    saved: torch.Tensor
    passing: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.unused = nn.Parameter(torch.rand(1))
        self.register_buffer("saved", torch.rand(3))
        self.register_buffer("passing", torch.rand(3), persistent=False)
        self.plain = torch.rand(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight * (self.saved + self.passing) + self.plain


def test_a_module_keeps_its_name_its_state_and_its_values() -> None:
    model = Scaled()
    captured = capture(model, (X,))
    assert isinstance(captured, OptimizedModule)
    assert type(captured).__name__ == "Scaled"
    assert sorted(captured.state_dict()) == sorted(model.state_dict())
    assert_same(captured(X), model(X))
    assert dict(captured.named_parameters())["weight"] is model.weight


def test_the_model_itself_gains_and_loses_nothing() -> None:
    model = Scaled()
    before = set(vars(model)), list(model.state_dict()), [name for name, _ in model.named_buffers()]
    capture(model, (X,))
    assert (set(vars(model)), list(model.state_dict()), [n for n, _ in model.named_buffers()]) == before


def test_what_is_computed_from_buffers_is_computed_in_the_graph() -> None:
    model = Scaled()
    captured = capture(model, (X,))
    model.saved.mul_(5)
    assert_same(captured(X), model(X))


def test_a_model_that_looks_into_a_buffer_is_traced_with_it_as_it_is() -> None:
    class Looks(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight if self.saved.numel() > 2 and bool((self.saved >= 0).all()) else x

    captured = capture(Looks(), (X,))
    assert "weight" in readable_code(captured.graph)


def test_a_model_that_looks_into_a_buffer_and_computes_with_it_is_refused() -> None:
    class Freezes(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (self.saved * 2) if bool((self.saved >= 0).all()) else x

    with pytest.raises(CaptureError):
        capture(Freezes(), (X,))


def function(x: torch.Tensor, scale: float = 2.0, *, negate: bool = False) -> torch.Tensor:
    return -x * scale if negate else x * scale


class CallableObject:
    """Neither a function nor a module."""

    def __call__(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return x * scale

    def method(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.mark.parametrize(
    "model",
    [
        function,
        lambda x: x * 2.0,
        CallableObject(),
        CallableObject().method,
        functools.partial(function, scale=3.0),
        nn.Linear(3, 3),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
        fx.symbolic_trace(lambda x: x * 2.0),
        fx.symbolic_trace(lambda x: x * 2.0).graph,
    ],
)
def test_everything_that_can_be_called_can_be_captured(model: Any) -> None:
    captured = capture(model, (X,))
    expected = fx.GraphModule({}, model)(X) if isinstance(model, fx.Graph) else model(X)
    assert_same(captured(X), expected)


def test_a_graph_is_copied_and_not_changed() -> None:
    traced = fx.symbolic_trace(lambda x: x * 2.0)
    captured = capture(traced)
    for node in captured.graph.nodes:
        node.meta["mine"] = True
    assert captured.graph is not traced.graph
    assert not any("mine" in node.meta for node in traced.graph.nodes)


def branching(x: torch.Tensor, negate: bool = False) -> torch.Tensor:
    return -x if negate else 2 * x


def test_arguments_on_which_programs_branch_are_fixed_and_checked() -> None:
    captured = capture(branching, (X, True))
    assert_same(captured(X, True), branching(X, True))
    with pytest.raises(AssertionError, match="negate has been specialized to have value True"):
        captured(X, False)


def test_arguments_that_are_fixed_keep_their_names() -> None:
    captured = capture(branching, (X,), {"negate": True})
    assert_same(captured(X, negate=True), branching(X, negate=True))


def test_defaults_stay_defaults() -> None:
    captured = capture(function, (X,))
    assert_same(captured(X), function(X))
    assert_same(captured(X, 5.0), function(X, 5.0))


def test_lines_are_kept_on_request() -> None:
    plain = capture(Scaled(), (X,))
    assert not any("stack_trace" in node.meta for node in plain.graph.nodes)
    stacked = capture(Scaled(), (X,), record_stacks=True)
    assert any("self.weight" in node.meta.get("stack_trace", "") for node in stacked.graph.nodes)


class Branches(nn.Module):
    """Can't be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_branch_on_data_is_refused_with_the_line_and_the_alternatives() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Branches(), (X,))
    for words in ("test_capture.py", "if x.sum() > 0:", "torch.fx.wrap", "is_leaf_module", "torch.export"):
        assert words in str(caught.value)


def test_a_tracer_that_keeps_a_module_out_of_the_trace_is_the_cure() -> None:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Branches)

    model = nn.Sequential(Branches())
    assert_same(capture(model, (X,), tracer=Tracer)(X), model(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_what_to_do() -> None:
    with pytest.raises(CaptureError, match="optimise the module it was scripted from"):
        capture(torch.jit.script(nn.Linear(3, 3)))


@pytest.mark.parametrize("thing", ["text", 3, None, X])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    with pytest.raises(UsageError, match=f"not {type(thing).__name__}"):
        capture(thing)


@pytest.mark.parametrize(
    ("arguments", "keywords"), [((X, 1.0, 2.0), {}), ((X,), {"nothing": 1}), ((X,), {"x": X})]
)
def test_examples_that_do_not_fit_the_signature_are_refused(arguments: Any, keywords: Any) -> None:
    with pytest.raises(UsageError, match="the example inputs don't fit function"):
        capture(function, arguments, keywords)


def starred(first: Any, *rest: Any, **named: Any) -> Any:
    return first + rest[0] + named["last"]


BINDINGS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], tuple[Any, ...]]] = [
    (lambda a, b: a + b, (1, 2), {}, (1, 2)),
    (lambda a, b: a + b, (1,), {"b": 2}, (1, 2)),
    (lambda a, b: a + b, (), {"b": 2, "a": 1}, (1, 2)),
    (lambda a, b=3: a + b, (1,), {}, (1,)),
    (lambda a, b=3, c=4: a + b + c, (1,), {"c": 5}, (1, 3, 5)),
]


@pytest.mark.parametrize(("program", "arguments", "keywords", "expected"), BINDINGS)
def test_examples_are_bound_in_the_order_of_the_placeholders(
    program: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    expected: tuple[Any, ...],
) -> None:
    assert bind_arguments(fx.symbolic_trace(program).graph, arguments, keywords) == expected


def test_starred_arguments_are_bound_too() -> None:
    captured = capture(starred, (X, X), {"last": X})
    assert_same(captured(X, X, last=X), 3 * X)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((1, 2, 3), {}, "1 example input.s. too many"),
        ((1,), {"z": 2}, "no argument 'z'"),
        ((), {"b": 2}, "no example for argument 'a'"),
    ],
)
def test_examples_that_no_placeholder_takes_are_refused(
    arguments: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bind_arguments(fx.symbolic_trace(lambda a, b: a + b).graph, arguments, keywords)


def test_state_keeps_its_order_so_that_optimizers_load_the_state_of_the_original() -> None:
    class Backwards(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.saved * self.unused * self.weight

    model = Backwards()
    captured = capture(model, (X,))
    assert [name for name, _ in captured.named_parameters()] == [name for name, _ in model.named_parameters()]
