"""Runs a program and its optimised form on equal arguments, and compares everything that a caller sees."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import einfx
from tests.program import BATCH, Program, tensor
from tests.rewriting import ROUNDING, assert_same

__all__ = ["Observation", "assert_equivalent", "assert_same_effects", "check_optimised", "observe"]


class _Recorder(TorchDispatchMode):
    """Notes the largest number and the coarsest dtype of a whole computation."""

    def __init__(self) -> None:
        super().__init__()
        self.magnitude = 0.0
        self.rounding = 0.0
        self.overflows = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in pytree.tree_leaves((args, result)):
            if isinstance(value, torch.Tensor) and value.dtype in ROUNDING:
                self.rounding = max(self.rounding, ROUNDING[value.dtype])
                if value.numel():
                    largest = float(value.detach().abs().max())
                    self.magnitude = max(self.magnitude, largest)
                    limit = torch.finfo(value.dtype).max
                    self.overflows |= not largest < 0.01 * limit
        return result


@dataclass
class Observation:
    """All that a caller can see of one call."""

    outputs: Any = None
    arguments: list[torch.Tensor] = field(default_factory=list)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    aliases: set[tuple[int, str]] = field(default_factory=set)
    gradients: dict[str, torch.Tensor | None] = field(default_factory=dict)
    magnitude: float = 0.0
    rounding: float = 0.0
    overflows: bool = False
    error: Exception | None = None


def observe(
    model: Callable[..., Any],
    arguments: Sequence[torch.Tensor],
    *,
    gradients: bool = False,
    measure: bool = False,
) -> Observation:
    """Call ``model`` and note its outputs and its effects.

    Args:
        model: a module or a function.
        arguments: what to call it with; it may change them.
        gradients: also differentiate a fixed combination of the outputs with respect to floating
            arguments and parameters.
        measure: also note the largest number that appears anywhere in the computation.

    Returns:
        What was seen; where the call or its gradient fails, the error alone.
    """
    seen = Observation()
    leaves = list(arguments)
    if gradients:
        leaves = [x.detach().requires_grad_(x.dtype in ROUNDING) for x in arguments]
        arguments = [x.clone() if x.requires_grad else x for x in leaves]
    state = {}
    if isinstance(model, nn.Module):
        state = dict(sorted([*model.named_parameters(), *model.named_buffers()]))
    owners = {f"argument {i}": x for i, x in enumerate(arguments)} | state
    recorder = _Recorder()
    try:
        with recorder if measure else _nothing():
            outputs = model(*arguments)
            if gradients:
                _backward(outputs)
    except Exception as error:
        seen.error = error
        return seen
    tensors = [x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)]
    seen.outputs = outputs
    seen.arguments = list(arguments)
    seen.state = {name: value.detach() for name, value in state.items()}
    for i, output in enumerate(tensors):
        for name, owner in owners.items():
            if output.numel() and output.untyped_storage()._cdata == owner.untyped_storage()._cdata:
                seen.aliases.add((i, name))
    if gradients:
        seen.gradients = {f"argument {i}": x.grad for i, x in enumerate(leaves)}
        seen.gradients |= {name: value.grad for name, value in state.items()}
    seen.magnitude, seen.rounding = recorder.magnitude, recorder.rounding
    seen.overflows = recorder.overflows
    return seen


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _backward(outputs: Any) -> None:
    total: Any = 0
    for i, output in enumerate(x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)):
        if output.requires_grad:
            weights = tensor(output.shape, output.dtype, seed=1000 + i)
            total = total + torch.real((output * weights).sum()).to(torch.float64)
    if isinstance(total, torch.Tensor):
        total.backward()


def assert_same_effects(got: Observation, expected: Observation, *, strides: bool = True) -> None:
    """Assert that two calls gave the same outputs and changed the same things in the same way."""
    if got.error is not None:
        raise AssertionError("the original runs here") from got.error
    precision: dict[str, Any] = {"magnitude": expected.magnitude}
    if expected.rounding:
        precision["tolerance"] = max(expected.rounding, 1e-12)
    assert_same(got.outputs, expected.outputs, **_for_integers(expected.outputs, precision))
    assert_same(got.arguments, expected.arguments, **_for_integers(expected.arguments, precision))
    state = {name: got.state.get(name) for name in expected.state}
    assert_same(state, expected.state, **_for_integers(expected.state, precision))
    assert got.aliases == expected.aliases, "(output, what it shares memory with)"
    if strides:
        _assert_strides(got.outputs, expected.outputs)


def _for_integers(values: Any, precision: dict[str, Any]) -> dict[str, Any]:
    leaves = [x for x in pytree.tree_leaves(values) if isinstance(x, torch.Tensor)]
    return precision if any(x.dtype in ROUNDING for x in leaves) else {}


def _assert_strides(got: Any, expected: Any) -> None:
    """The strides that the caller sees are the original's, or those of a contiguous tensor."""
    for value, reference in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
        if isinstance(value, torch.Tensor) and value.numel() and not value.is_contiguous():
            shown = [s for s, n in zip(value.stride(), value.shape, strict=True) if n > 1]
            wanted = [s for s, n in zip(reference.stride(), reference.shape, strict=True) if n > 1]
            assert shown == wanted, f"strides {value.stride()} instead of {reference.stride()}"


def assert_equivalent(
    program: Program,
    optimised: nn.Module,
    *,
    batch: int = BATCH,
    ones: Sequence[int] = (),
    share: bool = False,
    gradients: bool = False,
) -> bool:
    """Assert that ``optimised`` does what ``program`` does in eager mode, on arguments of these sizes.

    Args:
        program: the original; it runs on torch alone.
        optimised: its optimised form, called on a copy, so that its state stays as it is.
        batch: the size of the batch.
        ones: dimensions of the inputs that become 1.
        share: pass the same tensor for all inputs that are alike.
        gradients: compare gradients too.

    Strides must be the original's at the example's sizes alone, since those that torch.einsum gives its
    result depend on which sizes are 1; einfx.einsum has its own.

    Returns:
        False where the original itself fails, or where its numbers overflow: then nothing was compared.
    """
    model, candidate = program.model(oracle=True), copy.deepcopy(optimised)
    arguments = [_arguments(program, batch, ones, share) for _ in range(2)]
    expected = observe(model, arguments[0], gradients=gradients, measure=True)
    if expected.error is not None or expected.overflows:
        return False
    got = observe(candidate, arguments[1], gradients=gradients)
    if "IndexPattern" in program.source:
        # Windows of a tensor may be a view of it, where a contraction with zeros and ones is none.
        alone = observe(program.model(), _arguments(program, batch, ones, share))
        assert alone.error is None, f"zeros and ones are contracted, but patterns aren't: {alone.error}"
        expected.aliases = alone.aliases
    if batch == 0 and got.error is not None and "IndexPattern" in program.source:
        return False  # the batch may be channels to a convolution of torch, of which there must be some
    if got.error is not None and "einfx.einsum" in program.source:
        # einfx.einsum saves other values for the backward pass, which the program may overwrite.
        alone = observe(program.model(), _arguments(program, batch, ones, share), gradients=gradients)
        if alone.error is not None:
            return False
    strides = batch == BATCH and not ones and "einfx.einsum" not in program.source
    assert_same_effects(got, expected, strides=strides)
    if gradients:
        precision = {"tolerance": max(1e-11, expected.rounding), "magnitude": expected.magnitude}
        # A tensor that the program makes is state of its graph, without a gradient.
        of_original = {name: got.gradients.get(name) for name in expected.gradients}
        assert_same(of_original, expected.gradients, **precision)
    return True


def _arguments(program: Program, batch: int, ones: Sequence[int], share: bool) -> list[torch.Tensor]:
    arguments = program.arguments(batch, ones)
    if share:
        alike: dict[Any, torch.Tensor] = {}
        arguments = [alike.setdefault((x.shape, x.dtype), x) for x in arguments]
    return arguments


def check_optimised(
    model: Callable[..., Any], *arguments: torch.Tensor, gradients: bool = False, **options: Any
) -> einfx.OptimizedModule:
    """Optimise a model and assert that the result does what the model itself does in eager mode.

    Args:
        model: a function or a module; it calls torch alone.
        arguments: examples; the model is optimised for them and compared on them.
        gradients: compare gradients too.
        options: for :func:`einfx.optimize`.

    Returns:
        The optimised module, on which nothing was run yet.
    """
    original = copy.deepcopy(model)
    optimised = einfx.optimize(model, arguments, **options)
    candidate = copy.deepcopy(optimised)
    for differentiate in (False, True)[: 1 + gradients]:
        first, second = _copied(arguments), _copied(arguments)
        expected = observe(copy.deepcopy(original), first, gradients=differentiate, measure=True)
        got = observe(copy.deepcopy(candidate), second, gradients=differentiate)
        assert expected.error is None, expected.error
        if not isinstance(model, nn.Module):
            got.state = {}
        assert_same_effects(got, expected)
        if differentiate:
            got.gradients = {name: got.gradients[name] for name in expected.gradients}
            tolerance = max(1e-11, expected.rounding)
            assert_same(got.gradients, expected.gradients, tolerance=tolerance, magnitude=expected.magnitude)
    return optimised


def _copied(arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies with the same strides; arguments that share memory still do."""
    with torch.no_grad():
        return [x.detach() for x in copy.deepcopy([x.detach() for x in arguments])]
