"""Functions that ``torch.compile`` records as one operator each, and takes apart after the capture.

Their hyper-parameters are many kinds of Python values, read with caches and data classes that a capture can't
look into. So they travel as text, and the function runs on fake tensors when the captured graph is lowered.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .parameters import hashable

__all__ = ["captured", "capturing", "composing", "operator"]

_LIBRARY = torch.library.Library("einfx", "FRAGMENT")
_F = TypeVar("_F", bound=Callable[..., Tensor])


def operator(name: str, tensors: str = "Tensor x") -> Callable[[_F], _F]:
    """Register a function as the operator ``einfx::name``, and let symbolic tracing record a call of it.

    Args:
        name: the name of the operator.
        tensors: the schema of its leading tensors; every other argument is in one text.

    Returns:
        A decorator. What takes part in ``__torch_function__``, as a traced value does, answers for the
        function.
    """
    _LIBRARY.define(f"{name}({tensors}, str arguments) -> Tensor")
    count = tensors.count("Tensor")

    def register(function: _F) -> _F:
        def implementation(*arguments: Any) -> Tensor:
            return function(*arguments[:-1], *ast.literal_eval(arguments[-1]))

        # Under vmap too the function itself runs, over the rules of what it is made of.
        for key in ("CompositeImplicitAutograd", "FuncTorchBatched"):
            _LIBRARY.impl(name, implementation, key)

        @wraps(function)
        def dispatched(*arguments: Any, **keywords: Any) -> Any:
            leading = arguments[:count]
            if has_torch_function(leading):
                return handle_torch_function(dispatched, leading, *arguments, **keywords)
            return function(*arguments, **keywords)

        return cast("_F", dispatched)

    return register


def capturing() -> bool:
    """Whether the compiler follows Python code at this moment."""
    return torch.compiler.is_dynamo_compiling()


def composing() -> bool:
    """Whether torch compiles or exports: then operations are composed of torch's own, which it can fuse."""
    return torch.compiler.is_compiling()


def captured(name: str, tensors: tuple[Tensor | None, ...], *arguments: Any) -> Tensor:
    """Record a call of an operator.

    Args:
        name: the name of the operator.
        tensors: its leading tensors.
        arguments: the others: numbers, texts, and sequences of them.
    """
    text = str(tuple([hashable(argument) for argument in arguments]))
    result: Tensor = getattr(torch.ops.einfx, name)(*tensors, text)
    return result
