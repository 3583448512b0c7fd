"""Modules in the place of torch.nn's, and back: the same parameters and the same state in another class."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ...errors import UsageError

__all__ = ["become", "own_forward", "require", "sharing", "torch_class"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# What a subclass may define and still compute what its parent does.
_HARMLESS = {"__init__", "reset_parameters", "extra_repr", "__repr__", "__constants__"}
_FORGOTTEN_BY_COPIES = ("_compiled_call_impl",)


def torch_class(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> type[nn.Module] | None:
    """The class among ``classes`` that a module is of, or that its class is derived from; else None."""
    return next((cls for cls in classes if isinstance(module, cls)), None)


def own_forward(module: nn.Module, parent: type[nn.Module]) -> str | None:
    """What a module may compute in another way than ``parent``, its class in torch.nn: a reason to let it be.

    Returns:
        The reason in words; None where the module computes what ``parent`` does, as does one whose
        parameters are parametrized.

    Example:
        >>> class Clamped(nn.Conv1d):
        ...     def forward(self, input):
        ...         return super().forward(input).clamp(min=0)
        >>> own_forward(Clamped(1, 1, 3), nn.Conv1d)
        'Clamped is a subclass of Conv1d that defines forward'
    """
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "its forward was replaced"
    classes = list(type(module).__mro__)
    if parametrize.is_parametrized(module):
        classes = classes[1:]  # the class that torch made for it
    for cls in classes[: classes.index(parent)]:
        defined = [
            name
            for name, value in vars(cls).items()
            if name not in _HARMLESS
            and (not name.startswith("__") or callable(value))
            and name != "__annotations__"
        ]
        if defined:
            return f"{cls.__name__} is a subclass of {parent.__name__} that defines {', '.join(defined)}"
    return None


def require(module: nn.Module, classes: tuple[type[nn.Module], ...], what: str) -> type[nn.Module]:
    """The class of torch.nn that a module computes what it does of.

    Args:
        module: any module.
        classes: the classes that will do.
        what: who asks, for the error.

    Raises:
        UsageError: a module of another class, one with a forward of its own, or a lazy one that hasn't
            been called yet.
    """
    parent = torch_class(module, classes)
    if parent is None:
        names = ", ".join(f"torch.nn.{cls.__name__}" for cls in classes)
        raise UsageError(f"{what} takes {names}, not {type(module).__name__}")
    if nn.parameter.is_lazy(getattr(module, "weight", None)):  # type: ignore[arg-type]
        raise UsageError(
            f"{what} can't take {type(module).__name__} before its parameters are made: call it once on an "
            "input of the right size"
        )
    reason = own_forward(module, parent)
    if reason is not None:
        raise UsageError(f"{what} can't take a module that computes something else: {reason}")
    return parent


def sharing(module: nn.Module, cls: type[ModuleT]) -> ModuleT:
    """A module of another class with the very parameters, buffers, flags and hooks of ``module``.

    What is added to or removed from the one later doesn't change the other.
    """
    made = cls.__new__(cls)
    for name, value in vars(module).items():
        if name not in _FORGOTTEN_BY_COPIES:
            made.__dict__[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    if parametrize.is_parametrized(module):
        # Removing a parametrization from the one takes it out of this dictionary.
        parametrizations = module.get_submodule("parametrizations")
        made._modules["parametrizations"] = sharing(parametrizations, type(parametrizations))
    _set_class(made, cls, type(module))
    return made


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Make a module one of another class that keeps the same state.

    It stays the same object, so all that knows it, its hooks among them, goes on to.
    """
    _set_class(module, cls, type(module))


def _set_class(module: nn.Module, cls: type[nn.Module], was: type[nn.Module]) -> None:
    if parametrize.is_parametrized(module):
        # Torch made a class for this module, in which each parametrized tensor is a property.
        inherited: dict[str, Any] = {
            name: value for name, value in vars(was).items() if name not in ("__dict__", "__weakref__")
        }
        cls = type(f"Parametrized{cls.__name__}", (cls,), inherited)
    module.__class__ = cls
