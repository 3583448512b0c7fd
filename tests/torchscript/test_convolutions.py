from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn

import einfx
from einfx.conv import conv_transposeNd, convNd, foldNd, unfoldNd
from einfx.errors import UsageError
from tests.rewriting import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level")

CALLS: dict[str, tuple[Any, tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "conv1d": (convNd, ((2, 4, 9), (6, 2, 3)), {"stride": 2, "padding": (1,), "groups": 2}),
    "conv2d same": (convNd, ((2, 3, 9, 8), (6, 3, 3, 2)), {"padding": "same", "dilation": (2, 1)}),
    "conv2d valid": (convNd, ((2, 3, 9, 8), (6, 3, 3, 2)), {"padding": "valid", "stride": (1, 2)}),
    "conv4d": (convNd, ((2, 3, 4, 4, 4, 4), (2, 3, 3, 3, 2, 2)), {"padding": 1}),
    "transposed": (conv_transposeNd, ((2, 4, 5, 5), (4, 3, 3, 3)), {"stride": (2, 2), "output_padding": 1}),
    "unfold": (unfoldNd, ((2, 3, 9),), {"kernel_size": 3, "padding": 1}),
    "fold": (foldNd, ((2, 6, 8),), {"output_size": (9,), "kernel_size": 2}),
}


def traced(name: str) -> tuple[fx.GraphModule, list[torch.Tensor]]:
    function, shapes, keywords = CALLS[name]
    graph = fx.Graph()
    nodes = [graph.placeholder(f"x{i}") for i in range(len(shapes))]
    graph.output(graph.call_function(function, tuple(nodes), keywords))
    return fx.GraphModule(nn.Module(), graph), [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize("name", CALLS)
def test_convolutions_of_every_kind_script(name: str) -> None:
    module, arguments = traced(name)
    optimised = einfx.optimize(module, arguments)
    scripted = torch.jit.script(einfx.jitable(copy.deepcopy(optimised)))
    function, _, keywords = CALLS[name]
    assert_same(scripted(*arguments), function(*arguments, **keywords))


def test_a_model_with_converted_convolutions_scripts_optimised() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2))
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    converted = copy.deepcopy(model)
    made = einfx.conv.convert(converted)
    optimised = einfx.optimize(made if isinstance(made, nn.Module) else converted, (x,))
    assert_same(optimised(x), expected)
    assert_same(torch.jit.script(einfx.jitable(copy.deepcopy(optimised)))(x), expected)


def test_what_isnt_known_without_shapes_is_said() -> None:
    module, _ = traced("unfold")
    with pytest.raises(UsageError, match="how many dimensions it has isn't known"):
        einfx.jitable(module)
    module, _ = traced("conv2d same")
    with pytest.raises(UsageError, match="the size of its kernel"):
        einfx.jitable(module)
