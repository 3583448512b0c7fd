"""What tracing may change in a model, and how it is put back."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .graphs.writes import IN_PLACE_OPERATORS

__all__ = ["ModelState"]


class ModelState:
    """The attributes and buffers of a model before it was traced.

    Tracing runs the model's Python code: what it assigns to ``self`` would stay a proxy, and what it writes
    to a buffer that isn't traced would stay written.

    Args:
        model: a module, or anything else, of which nothing is kept.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> state = ModelState(model)
        >>> model.seen = True
        >>> state.restore()
        >>> hasattr(model, "seen")
        False
    """

    def __init__(self, model: Any) -> None:
        self._modules = list(model.named_modules()) if isinstance(model, torch.nn.Module) else []
        self._attributes = [
            (dict(m.__dict__), dict(m._parameters), dict(m._buffers), dict(m._modules))
            for _, m in self._modules
        ]
        self._buffers: list[tuple[torch.Tensor, int, torch.Tensor]] = []

    def keep_buffers(self) -> None:
        """Copy the buffers, so that :meth:`restore_buffers` can undo what is written to them from now on."""
        for _, module in self._modules:
            for buffer in module._buffers.values():
                if type(buffer) is torch.Tensor and not buffer.is_inference():
                    self._buffers.append((buffer, buffer._version, buffer.clone()))

    def restore_buffers(self) -> bool:
        """Undo what was written to buffers since they were kept; whether there was anything."""
        changed = [(buffer, value) for buffer, version, value in self._buffers if buffer._version != version]
        with torch.no_grad():
            for buffer, value in changed:
                buffer.copy_(value)
        return bool(changed)

    def lost_assignments(self) -> list[str]:
        """Attributes to which the traced program assigns a new value, which the graph doesn't show.

        ``self.count += 1`` isn't lost, since it writes to the tensor that the attribute holds.
        """
        lost = []
        for (path, module), (attributes, _, buffers, _) in zip(self._modules, self._attributes, strict=True):
            for name, value in [*module.__dict__.items(), *module._buffers.items()]:
                if isinstance(value, fx.Proxy) and value is not attributes.get(name, buffers.get(name)):
                    full = f"{path}.{name}" if path else name
                    if not _writes_to(value.node, full):
                        lost.append(full)
        return sorted(set(lost))

    def restore(self) -> None:
        """Put every attribute back as it was."""
        for (_, module), (attributes, parameters, buffers, modules) in zip(
            self._modules, self._attributes, strict=True
        ):
            for kept, now in (
                (parameters, module._parameters),
                (buffers, module._buffers),
                (modules, module._modules),
                (attributes, module.__dict__),
            ):
                if len(now) != len(kept) or any(now.get(key) is not value for key, value in kept.items()):
                    now.clear()
                    now.update(kept)


def _writes_to(node: fx.Node, path: str) -> bool:
    """Whether ``node`` is an augmented assignment to the attribute ``path``."""
    while node.target in IN_PLACE_OPERATORS and node.target is not operator.setitem:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return False
        node = source
    return node.op == "get_attr" and node.target == path
