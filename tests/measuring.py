"""What a program executes: its multiplications and the elements that each kind of operation writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.profiler import ProfilerActivity, profile
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from einfx.rewrite import readable_code

__all__ = ["Executed", "allocated_bytes", "code_of", "elements_of", "executed", "multiplications"]

SCALING = ("mul", "div", "neg", "reciprocal", "rsub", "mul_", "div_", "neg_")


class Executed(TorchDispatchMode):
    """Counts the elements that operations of each name write, and the multiplications of contractions."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.multiplications = 0
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls.append((name, args))
        for value in pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.elements[name] += value.numel()
        factors = [x for x in args if isinstance(x, torch.Tensor)]
        if name in ("mm", "bmm", "mv", "dot", "addmm", "baddbmm"):
            self.multiplications += result.numel() * factors[-1 if name != "dot" else 0].shape[-2 if name in (
                "mm", "bmm", "addmm", "baddbmm") else -1]  # fmt: skip
        elif name in ("mul", "mul_") and sum(x.ndim > 0 for x in factors) > 1:
            self.multiplications += result.numel()
        return result


def executed(model: Callable[..., Any], *arguments: torch.Tensor) -> Executed:
    """Run ``model`` and note what it executes."""
    with torch.no_grad(), Executed() as record:
        model(*arguments)
    return record


def multiplications(model: Callable[..., Any], *arguments: torch.Tensor) -> int:
    """How many products of two tensors' elements ``model`` computes."""
    return executed(model, *arguments).multiplications


def elements_of(model: Callable[..., Any], *arguments: torch.Tensor) -> int:
    """How many elements ``model`` writes in multiplying or dividing by a scalar, or in negating."""
    record = executed(model, *arguments)
    total = 0
    for name, args in record.calls:
        tensors = [x for x in args if isinstance(x, torch.Tensor) and x.ndim > 0]
        if name in SCALING and len(tensors) == 1:
            total += tensors[0].numel()
    return total


def allocated_bytes(model: Callable[..., Any], *arguments: torch.Tensor) -> int:
    """The most bytes that the allocator has given away at a time while ``model`` runs, without gradients."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = model(*arguments)
    del result
    events: list[Any] = [x for x in record.profiler.kineto_results.events() if x.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda x: x.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def code_of(module: fx.GraphModule) -> str:
    """The readable code of a graph module."""
    return readable_code(module.graph)
