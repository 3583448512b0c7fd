"""The shipped models can be traced, scripted, cast and repeated, and are the ones they claim to be."""

import copy

import pytest
import torch
from torch import fx

from einfx.demo.models import MODELS
from einfx.demo.tensor_product import Irrep, RowwiseTensorProduct, all_paths

NAMES = sorted(MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_tracing_with_the_default_tracer_keeps_the_numbers(name: str) -> None:
    model, inputs = MODELS[name]()
    assert torch.equal(fx.symbolic_trace(model)(*inputs), model(*inputs))


@pytest.mark.parametrize("name", NAMES)
def test_every_contraction_is_recorded_rather_than_folded_while_tracing(name: str) -> None:
    model, inputs = MODELS[name]()
    calls = []

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            calls.append(func)
            return func(*args, **(kwargs or {}))

    with Count():
        model(*inputs)
    einsums = [
        node for node in fx.symbolic_trace(model).graph.nodes if node.target is torch.functional.einsum
    ]
    assert len(einsums) == calls.count(torch.functional.einsum) > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_is_not_baked_into_the_trace(name: str) -> None:
    model, inputs = MODELS[name]()
    fewer = tuple(value[:5] for value in inputs)
    assert torch.equal(fx.symbolic_trace(model)(*fewer), model(*fewer))


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_can_be_scripted(name: str) -> None:
    model, inputs = MODELS[name]()
    scripted = torch.jit.script(fx.symbolic_trace(model))
    torch.testing.assert_close(scripted(*inputs), model(*inputs))


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_agrees_with_the_default(name: str) -> None:
    model, inputs = MODELS[name]()
    double = copy.deepcopy(model).double()(*(value.double() for value in inputs))
    assert double.dtype == torch.float64
    torch.testing.assert_close(model(*inputs).double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_each_construction_gives_the_same_model_and_leaves_the_global_seed_alone(name: str) -> None:
    state = torch.get_rng_state()
    model, inputs = MODELS[name]()
    again, inputs_again = MODELS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(*inputs), again(*inputs_again))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, inputs = MODELS[name]()
    model(*inputs).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_the_tensor_product_is_that_of_e3nn() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    model, inputs = MODELS["tensor_product"]()
    irreps = "16x0e + 16x1o + 16x2e"
    reference = o3.FullyConnectedTensorProduct(irreps, "0e + 1o + 2e", irreps)
    torch.testing.assert_close(model(*inputs), reference(*inputs, model.weight), rtol=1e-4, atol=1e-4)


def test_the_rowwise_tensor_product_is_that_of_e3nn() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    features = [Irrep(4, 0, 1), Irrep(4, 1, -1), Irrep(4, 2, 1)]
    harmonics = [Irrep(1, 0, 1), Irrep(1, 1, -1), Irrep(1, 2, 1)]
    pairs = list(all_paths(features, harmonics, features, mode="uvu"))
    outputs = [features[path.out] for path in pairs]
    paths = [path._replace(out=number) for number, path in enumerate(pairs)]
    model = RowwiseTensorProduct(features, harmonics, outputs, paths)
    reference = o3.TensorProduct(
        "4x0e + 4x1o + 4x2e",
        "0e + 1o + 2e",
        [(mul, (degree, parity)) for mul, degree, parity in outputs],
        [(path.first, path.second, path.out, "uvu", True) for path in paths],
        shared_weights=False,
        internal_weights=False,
    )
    first, second = torch.randn(7, 36), torch.randn(7, 9)
    weight = torch.randn(7, model.weight_size)
    torch.testing.assert_close(
        model(first, second, weight), reference(first, second, weight), rtol=1e-4, atol=1e-5
    )
