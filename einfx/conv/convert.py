"""Every convolution of a model in torch.nn's modules becomes an einsum module, parameters and all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import UsageError
from .modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd
from .modules.exchange import become, own_forward, torch_class

__all__ = ["Conversion", "convert"]

Einsum = ConvNd | ConvTransposeNd | UnfoldNd | FoldNd

_EINSUMS: dict[type[nn.Module], type[Einsum]] = {
    nn.Conv1d: ConvNd,
    nn.Conv2d: ConvNd,
    nn.Conv3d: ConvNd,
    nn.ConvTranspose1d: ConvTransposeNd,
    nn.ConvTranspose2d: ConvTransposeNd,
    nn.ConvTranspose3d: ConvTransposeNd,
    nn.Unfold: UnfoldNd,
    nn.Fold: FoldNd,
}


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` did to a model.

    Attributes:
        replaced: the names of the modules that are einsum modules now, in the order of the model; a module
            that the model has under several names is there with each. The model itself is ``""``.
        kept: the names of convolutions that were left alone, each with the reason.

    Example:
        >>> print(Conversion(["stem"], {"head": "it is scripted"}))
        replaced 1: stem
        kept 1: head (it is scripted)
    """

    replaced: list[str]
    kept: dict[str, str]

    def __str__(self) -> str:
        kept = [f"{_shown(name)} ({reason})" for name, reason in self.kept.items()]
        lines = ("replaced", [_shown(name) for name in self.replaced]), ("kept", kept)
        return "\n".join(f"{verb} {len(names)}: {', '.join(names)}".rstrip(": ") for verb, names in lines)


def convert(model: nn.Module) -> nn.Module:
    """Replace every convolution of torch.nn in a model by its einsum module, in place.

    ``Conv1d`` to ``Conv3d``, ``ConvTranspose1d`` to ``ConvTranspose3d``, ``Unfold`` and ``Fold`` become
    :class:`ConvNd`, :class:`ConvTransposeNd`, :class:`UnfoldNd` and :class:`FoldNd`. Each stays the same
    object, with its parameters, buffers, hooks, parametrizations and training flag, so that optimizers and
    lists which hold it go on to, and a module that is in the model twice still is. State dicts stay as they
    are. Subclasses which compute something of their own are left alone.

    Args:
        model: any module; also a convolution itself.

    Returns:
        The model itself. What was done to it is in its attribute ``einfx_conversion``, a
        :class:`Conversion` with the names that were ``replaced`` and those that were ``kept``, each of
        these with the reason.

    Raises:
        UsageError: a lazy module whose parameters aren't made yet; then nothing is replaced.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> x = torch.randn(1, 3, 8, 8)
        >>> expected = model(x)
        >>> convert(model)
        Sequential(
          (0): ConvNd(2, 3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
          (2): ConvNd(2, 8, 4, kernel_size=(1, 1), stride=(1, 1))
        )
        >>> torch.equal(model(x), expected), model.einfx_conversion.replaced
        (True, ['0', '2'])
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("convert can't change a scripted or traced model: convert it before it is scripted")
    found: list[tuple[str, nn.Module, type[nn.Module]]] = []
    kept: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.jit.ScriptModule):
            if f"torch.nn.{getattr(module, 'original_name', '')}" in _NAMES:
                kept[name] = "it is scripted"
            continue
        parent = torch_class(module, tuple(_EINSUMS))
        if parent is None:
            continue
        reason = own_forward(module, parent)
        if nn.parameter.is_lazy(getattr(module, "weight", None)):  # type: ignore[arg-type]
            raise UsageError(
                f"convert can't take {_shown(name)}, a {type(module).__name__} whose parameters aren't made "
                "yet: call the model once on an input of the right size before"
            )
        if reason is None:
            found.append((name, module, parent))
        else:
            kept[name] = reason
    for module, parent in {id(module): (module, parent) for _, module, parent in found}.values():
        become(module, _EINSUMS[parent])
        assert isinstance(module, Einsum)
        module._adopted()
    model.einfx_conversion = Conversion([name for name, _, _ in found], kept)  # type: ignore[assignment]
    return model


_NAMES = {f"torch.nn.{cls.__name__}" for cls in _EINSUMS}


def _shown(name: str) -> str:
    return name or "the model itself"
