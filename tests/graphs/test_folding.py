"""A folded constant knows what it came from, and is computed again when that changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from einfx.graphs.folding import FoldedConstant, attribute


class Model(nn.Module):
    """Two sources, one of them inside a submodule."""

    p: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor([1.0, 2.0]))
        self.inner: Any = nn.Linear(2, 2, bias=False).requires_grad_(False)


def constant() -> FoldedConstant:
    graph = fx.Graph()
    p, weight = graph.get_attr("p"), graph.get_attr("inner.weight")
    graph.output(graph.call_function(torch.mv, (weight, p)))
    return FoldedConstant("folded", graph)


def value(model: Any) -> torch.Tensor:
    return model.folded


def expected(model: Any) -> torch.Tensor:
    return model.inner.weight @ model.p


def test_attributes_are_found_by_their_path() -> None:
    model = Model()
    assert attribute(model, "p") is model.p
    assert attribute(model, "inner.weight") is model.inner.weight
    with pytest.raises(AttributeError):
        attribute(model, "inner.nothing")


def test_its_sources_are_the_attributes_that_its_graph_reads() -> None:
    assert constant().sources == ("p", "inner.weight")


def test_it_becomes_a_buffer_that_is_not_saved_and_has_no_gradient() -> None:
    model = Model()
    constant().refresh(model)
    assert torch.equal(value(model), expected(model))
    assert "folded" not in model.state_dict()
    assert not value(model).requires_grad


def test_it_is_not_computed_again_while_nothing_changes() -> None:
    model, folded = Model(), constant()
    folded.refresh(model)
    before = value(model)
    folded.refresh(model)
    assert value(model) is before


CHANGES: dict[str, Callable[[Any], Any]] = {
    "written in place": lambda m: m.p.mul_(3),
    "written in part": lambda m: m.inner.weight[0].zero_(),
    "given other data": lambda m: setattr(m.p, "data", m.p.data * 2),
    "replaced": lambda m: setattr(m, "p", torch.tensor([5.0, 6.0])),
    "loaded": lambda m: m.load_state_dict({"p": torch.ones(2), "inner.weight": torch.ones(2, 2)}),
    "loaded by assignment": lambda m: m.load_state_dict(
        {"p": torch.ones(2), "inner.weight": torch.ones(2, 2)}, assign=True
    ),
    "converted": lambda m: m.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_it_is_computed_again_when_a_source_was(change: Callable[[Any], Any]) -> None:
    model, folded = Model(), constant()
    folded.refresh(model)
    change(model)
    folded.refresh(model)
    assert torch.equal(value(model), expected(model))
    assert value(model).dtype == expected(model).dtype


def test_it_is_computed_again_after_a_step_of_an_optimizer() -> None:
    model, folded = Model(), constant()
    folded.refresh(model)
    model.inner.weight.requires_grad_(True)
    model.inner.weight.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    folded.refresh(model)
    assert torch.equal(value(model), expected(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_serves_another_module(duplicate: Callable[[Any], Any]) -> None:
    model, folded = Model(), constant()
    folded.refresh(model)
    other = copy.deepcopy(model)
    twin = duplicate(folded)
    other.p.mul_(7)
    twin.refresh(other)
    assert torch.equal(value(other), expected(other))
    assert (twin.name, twin.sources) == (folded.name, folded.sources)
    folded.refresh(model)
    assert torch.equal(value(model), expected(model))


def test_parameters_made_in_inference_mode_are_read_every_time_they_are_replaced() -> None:
    model, folded = Model(), constant()
    with torch.inference_mode():
        model.p = torch.tensor([3.0, 4.0])
    folded.refresh(model)
    assert torch.equal(value(model), expected(model))
