"""One reader of contractions, one writer, one accessor of values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import einfx
from einfx.equation import Equation
from einfx.graphs.nodes import (
    VALUE,
    Value,
    as_contraction,
    in_any_order,
    inherit,
    insert_contraction,
    is_einsum,
    set_value,
    value_of,
)
from einfx.graphs.shapes import propagate
from einfx.options import REAL, Options

E = torch.einsum
A, B = torch.rand(2, 3), torch.rand(3, 4)


def call(program: Callable[..., Any], *operands: torch.Tensor) -> fx.Node:
    """The last call of a traced program; its shapes are known if there are operands."""
    traced = fx.symbolic_trace(program)
    if operands:
        propagate(traced, operands)
    return list(traced.graph.nodes)[-2]


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("ij,jk->ik", a, b),
        lambda a, b: E("ij,jk", a, b),
        lambda a, b: E(" x y, y z -> x z", [a, b]),
        lambda a, b: E("...y,yz->...z", a, b),
        lambda a, b: E(a, [0, 1], b, [1, 2]),
        lambda a, b: E(a, [5, 1], b, [1, 2], [5, 2]),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, optimize="auto"),
        lambda a, b: torch.ops.aten.einsum("ij,jk->ik", [a, b]),
        lambda a, b: torch.ops.aten.einsum.default("ij,jk->ik", [a, b], path=None),
    ],
)
def test_every_style_of_einsum_is_read_alike(program: Callable[..., Any]) -> None:
    contraction = as_contraction(call(program, A, B))
    assert contraction is not None
    assert str(contraction.equation) == "ab,bc->ac"
    assert [operand.name for operand in contraction.operands] == ["a", "b"]


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: a @ b,
        lambda a, b: E("ij,jk->iz", a, b),
        lambda a, b: E("i?,jk->ik", a, b),
        lambda a, b: E("ij,jk,kl->il", a, b),
        lambda a, b: E("...y,yz->...z", a, b),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, optimize="greedy"),
    ],
)
def test_what_is_no_einsum_or_no_valid_one_is_not_read(program: Callable[..., Any]) -> None:
    assert as_contraction(call(program)) is None


L = functools.partial(einfx.einsum, semiring="log")


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (lambda a, b: L("ij,jk->ik", a, b), Options.read("log")),
        (lambda a, b: L("ij,jk", [a, b], optimize="auto"), Options.read("log")),
        (
            lambda a, b: L(a, [0, 1], b, [1, 2], linear_operands=[1]),
            Options.read("log", linear_operands=(1,)),
        ),
        (lambda a, b: L("ij,jk->ik", a, b, grad_of_neg_inf=0), Options.read("log", grad_of_neg_inf=0.0)),
        (
            lambda a, b: L("ij,jk->ik", a, b, zero_annihilates=True),
            Options.read("log", zero_annihilates=True),
        ),
        (lambda a, b: L("ij,jk->ik", a, b, grad_of_neg_inf=float("nan")), Options.read("log")),
        (lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="viterbi"), Options.read("max_plus")),
        (lambda a, b: einfx.einsum("ij,jk->ik", a, b, block_size=4), Options.read(block_size=4)),
        (
            lambda a, b: einfx.einsum("ij,jk->ik", a, b, memory_limit="1 KiB", return_argmax=False),
            Options.read(memory_limit=1024),
        ),
        (lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="real"), REAL),
    ],
)
def test_options_are_read_with_the_contraction(program: Callable[..., Any], options: Options) -> None:
    contraction = as_contraction(call(program, A, B))
    assert contraction is not None
    assert str(contraction.equation) == "ab,bc->ac"
    assert contraction.options == options


def test_operators_that_exported_graphs_hold_are_read_with_their_options() -> None:
    class Model(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (
                L("ij,jk->ik", a, b, linear_operands=(1,), grad_of_neg_inf=0.0),
                L("ij,jk->ik", a, b, grad_of_neg_inf="uniform", memory_limit="1MiB"),
                einfx.einsum("ij,jk", a, b, semiring="viterbi", zero_annihilates=True, block_size=3),
                L("ij,jk->ik", a, b, optimize="greedy"),
            )

    graph = torch.export.export(Model(), (A, B)).graph
    read = [as_contraction(node) for node in graph.nodes if is_einsum(node)]
    assert [None if x is None else x.options for x in read] == [
        Options.read("log", linear_operands=(1,), grad_of_neg_inf=0.0),
        Options.read("log", grad_of_neg_inf="uniform", memory_limit=1 << 20),
        Options.read("max_plus", zero_annihilates=True, block_size=3),
        None,
    ]
    assert {str(x.equation) for x in read if x is not None} == {"ab,bc->ac"}


def with_keywords(**keywords: Any) -> fx.Node:
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    return graph.call_function(einfx.einsum, ("ij,jk->ik", a, b), {"semiring": "log", **keywords})


@pytest.mark.parametrize(
    "keywords",
    [
        {"semiring": "nobody's"},
        {"semiring": "max_plus", "linear_operands": (0,)},
        {"linear_operands": (2,)},
        {"linear_operands": (-1,)},
        {"block_size": 0},
        {"memory_limit": "much"},
        {"grad_of_neg_inf": "equal"},
        {"optimize": "greedy"},
        {"return_argmax": True},
        {"something": 1},
    ],
)
def test_options_that_are_invalid_or_say_more_are_not_read(keywords: dict[str, Any]) -> None:
    assert as_contraction(with_keywords(**keywords)) is None


def test_options_that_the_program_computes_are_not_read() -> None:
    for key in ("block_size", "zero_annihilates", "linear_operands", "semiring"):
        node = with_keywords()
        (a, *_) = node.all_input_nodes
        node.kwargs = {**node.kwargs, key: (a,) if key == "linear_operands" else a}
        assert as_contraction(node) is None


def test_what_was_read_is_read_again_when_keywords_change() -> None:
    node = with_keywords()
    assert as_contraction(node).options.semiring.name == "log"  # type: ignore[union-attr]
    node.kwargs = {"semiring": "min_plus"}
    assert as_contraction(node).options.semiring.name == "min_plus"  # type: ignore[union-attr]


def test_an_argmax_and_an_order_of_ones_own_are_read_by_who_asks_for_the_value_alone() -> None:
    for keywords in ({"optimize": "greedy"}, {"semiring": "max_plus", "return_argmax": True}):
        contraction = in_any_order(with_keywords(**keywords))
        assert contraction is not None
        assert str(contraction.equation) == "ab,bc->ac"


def test_a_contraction_with_options_is_written_as_a_call_of_einfx() -> None:
    traced = fx.symbolic_trace(lambda a, b: (a, b))
    propagate(traced, (A, B))
    a, b, output = traced.graph.nodes
    options = Options.read("log", linear_operands=(1,), grad_of_neg_inf=0.0, memory_limit=2048)
    with traced.graph.inserting_before(output):
        node = insert_contraction(traced.graph, Equation.parse("xy,yz->zx"), (a, b), options)
    assert node.target is einfx.einsum
    assert node.kwargs == {
        "semiring": "log", "linear_operands": (1,), "grad_of_neg_inf": 0.0, "memory_limit": 2048
    }  # fmt: skip
    assert value_of(node) == Value((4, 2), (2, 1), torch.float32, torch.device("cpu"))
    contraction = as_contraction(node)
    assert contraction is not None
    assert contraction.options == options


def test_only_what_reorders_real_numbers_arranges() -> None:
    assert as_contraction(call(lambda a: E("ij->ji", a))).arranges  # type: ignore[union-attr]
    assert as_contraction(call(lambda a: E("ii->i", a))).arranges  # type: ignore[union-attr]
    for program in (
        lambda a: E("ij->i", a),
        lambda a: E("i,i->i", a, a),
        lambda a: L("ij->ji", a, linear_operands=(0,)),
        lambda a: L("ij->ji", a),
    ):
        assert not as_contraction(call(program)).arranges  # type: ignore[union-attr]


def test_things_that_are_no_nodes_are_no_contractions() -> None:
    assert as_contraction(3) is None
    assert as_contraction(None) is None
    assert value_of("x") is None


def test_einsums_are_known_whoever_made_the_graph() -> None:
    graph = make_fx(lambda a, b: torch.ops.aten.mm(a, b))(A, B).graph
    assert not any(is_einsum(node) for node in graph.nodes)
    assert is_einsum(call(lambda a: E("ii", a)))
    assert is_einsum(call(lambda a: einfx.einsum("ii", a)))


def test_a_contraction_is_written_in_the_canonical_form_with_its_value() -> None:
    traced = fx.symbolic_trace(lambda a, b: (a, b))
    propagate(traced, (A, B))
    a, b, output = traced.graph.nodes
    with traced.graph.inserting_before(output):
        node = insert_contraction(traced.graph, Equation.parse("xy,yz->zx"), (a, b))
    assert node.target is torch.functional.einsum
    assert node.args == ("ab,bc->ca", a, b)
    assert node.kwargs == {}
    assert value_of(node) == Value((4, 2), (2, 1), torch.float32, torch.device("cpu"))
    contraction = as_contraction(node)
    assert contraction is not None
    assert contraction.operands == (a, b)


def test_a_contraction_of_unknown_operands_has_an_unknown_value() -> None:
    graph = fx.Graph()
    node = insert_contraction(graph, Equation.parse("ij->ji"), [graph.placeholder("a")])
    assert value_of(node) is None


@pytest.mark.parametrize("key", ["val", "example_value", "tensor_meta"])
def test_values_are_read_from_every_key_that_front_ends_use(key: str) -> None:
    node = fx.Graph().placeholder("x")
    node.meta[key] = torch.empty(2, 3, dtype=torch.float64)
    value = value_of(node)
    assert value is not None
    assert (value.shape, value.dtype) == ((2, 3), torch.float64)


def test_einfxs_own_key_goes_before_those_of_others() -> None:
    node = fx.Graph().placeholder("x")
    node.meta["val"] = torch.empty(2, 3)
    node.meta[VALUE] = Value((5,), (1,), torch.float32, torch.device("cpu"))
    assert value_of(node) == node.meta[VALUE]


def test_symbolic_sizes_are_read_by_their_hint_and_get_no_guard() -> None:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    environment = ShapeEnv()
    mode = FakeTensorMode(shape_env=environment)
    context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    fake = mode.from_tensor(torch.ones(7, 3), symbolic_context=context)
    node = fx.Graph().placeholder("x")
    node.meta["val"] = fake
    value = value_of(node)
    assert value is not None
    assert value.shape == (7, 3)
    assert all(type(size) is int for size in value.shape)
    assert isinstance(fake.shape[0], torch.SymInt)
    assert environment.guards == []


def test_values_that_are_no_tensors_are_unknown() -> None:
    node = fx.Graph().placeholder("x")
    node.meta["val"] = (torch.ones(2), 3)
    assert value_of(node) is None


def test_bytes_count_dense_elements() -> None:
    device = torch.device("cpu")
    assert Value((2, 3), (3, 1), torch.float64, device).bytes == 48
    assert Value((2, 3), (0, 1), torch.int8, device).bytes == 6
    assert Value((), (), torch.complex64, device).bytes == 8
    assert Value((0, 3), (3, 1), torch.float32, device).bytes == 0


def test_a_value_makes_a_tensor_without_data_that_looks_like_it() -> None:
    tensor = torch.ones(4, 6, dtype=torch.float64)[:, ::2].t()
    value = Value.of(tensor)
    assert value is not None
    twin = value.on_meta()
    assert twin.is_meta
    assert (twin.shape, twin.stride(), twin.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)


def test_a_recorded_value_is_contiguous_and_takes_dtype_and_device_of_another() -> None:
    graph = fx.Graph()
    x, y, unknown = (graph.placeholder(name) for name in "xyz")
    x.meta["val"] = torch.empty(3, dtype=torch.float16)
    set_value(y, (2, 0, 3), x)
    assert value_of(y) == Value((2, 0, 3), (3, 3, 1), torch.float16, torch.device("cpu"))
    set_value(unknown, (2,), unknown)
    assert value_of(unknown) is None


def test_a_node_inherits_metadata_but_keeps_its_own_value() -> None:
    graph = fx.Graph()
    old, new = graph.placeholder("old"), graph.placeholder("new")
    old.meta.update(val=torch.empty(2, 3), stack_trace="here", mine="old")
    new.meta.update(mine="new")
    new.meta[VALUE] = Value((6,), (1,), torch.float32, torch.device("cpu"))
    assert inherit(new, old) is new
    assert (new.meta["stack_trace"], new.meta["mine"]) == ("here", "new")
    assert "val" not in new.meta
    value = value_of(new)
    assert value is not None
    assert value.shape == (6,)
