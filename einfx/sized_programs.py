"""Programs for the sizes of a call: a module whose memory is limited runs the one that was made for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree

__all__ = ["Program", "SizedPrograms", "signature"]

KEPT = 64
"""For how many signatures programs are remembered."""


class Program(NamedTuple):
    """What runs a call.

    Attributes:
        forward: takes the module and the arguments; None for the module's own program.
        grows: whether it takes no more for smaller inputs.
        overwrites: whether it writes over results that nothing in it reads any more.
    """

    forward: Callable[..., Any] | None
    grows: bool
    overwrites: bool = False


Replan = Callable[[Any, Sequence[Any], Mapping[str, Any], bool, bool], Program]


class SizedPrograms:
    """The programs of one module, by what its inputs look like.

    Args:
        replan: makes a program: of the module, positional and keyword arguments, whether gradients are
            recorded, and whether the program may overwrite results that it doesn't read any more.
    """

    def __init__(self, replan: Replan) -> None:
        self.replan = replan
        self._known: OrderedDict[Hashable, Program] = OrderedDict()

    def learn(
        self, module: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], program: Program
    ) -> None:
        """Remember the program for some inputs."""
        key = signature(module, arguments, keywords)
        if key is not None:
            self._known[key] = program

    def forget(self) -> None:
        """Everything that was made for the state as it was."""
        self._known.clear()

    def program(
        self, module: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> Callable[..., Any] | None:
        """What runs a call; None for the module's own program.

        Raises:
            MemoryLimitError: nothing is known that stays within the limit.
        """
        key = signature(module, arguments, keywords)
        if key is None:
            return None
        if not key[0] and (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0):
            # What such tensors take can't be seen; nothing may be overwritten that a transform has kept.
            known = self._known.get(key)
            return None if known is None or known.overwrites else known.forward
        found = self._found(key, module, arguments, keywords, overwrite=True)
        if found.overwrites and _is_watched(module, arguments, keywords):
            found = self._found((*key, "watched"), module, arguments, keywords, overwrite=False)
        return found.forward

    def _found(
        self,
        key: tuple[Any, ...],
        module: Any,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
        overwrite: bool,
    ) -> Program:
        """The program with a signature, made if there is none yet."""
        found = self._known.get(key)
        if found is None:
            found = self._of_larger(key)
            if found is None:
                found = self.replan(module, arguments, keywords, bool(key[0]), overwrite)
            self._known[key] = found
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found

    def _of_larger(self, key: tuple[Any, ...]) -> Program | None:
        """The program for inputs of which none is smaller than these, in any dimension."""
        for other, program in self._known.items():
            if program.grows and _is_smaller(key, other, broadcasts=not program.overwrites):
                return program
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> SizedPrograms:
        return SizedPrograms(self.replan)

    def __getstate__(self) -> dict[str, Any]:
        return {"replan": self.replan, "_known": OrderedDict()}


def signature(
    module: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[Hashable, ...] | None:
    """What decides about the memory of a call: gradients, and sizes, dtypes and devices of its inputs.

    Returns:
        None where the call doesn't compute, but is recorded, or where its inputs have no sizes.

    Example:
        >>> signature(torch.nn.Identity(), (torch.ones(2, 3), 1.5), {})
        (False, True, (), ((2, 3), None, torch.float32, device(type='cpu')), <class 'float'>)
    """
    if torch._C._get_tracing_state() is not None:
        return None
    recording = torch.is_grad_enabled()
    wanted = False
    parts: list[Any] = []
    leaves: Sequence[Any] = arguments
    if keywords:
        parts.append(tuple(keywords))
        leaves = (*arguments, *keywords.values())
    if any(isinstance(x, (list, tuple, dict)) for x in leaves):
        leaves, shape = pytree.tree_flatten(list(leaves))
        parts.append(str(shape))
    for x in leaves:
        if isinstance(x, Tensor):
            if isinstance(x, FakeTensor) or x.device.type == "meta" or x.layout is not torch.strided:
                return None
            wanted = wanted or (recording and x.requires_grad)
            strides = None if x.is_contiguous() else x.stride()
            parts.append((tuple(x.shape), strides, x.dtype, x.device))
        elif isinstance(x, fx.Proxy):
            return None
        else:
            parts.append((type(x), x) if isinstance(x, (int, str, type(None))) else type(x))
    if recording and not wanted:
        wanted = any(parameter.requires_grad for parameter in module.parameters())
    return (wanted, module.training, _casting(), *parts)


def _casting() -> tuple[Hashable, ...]:
    """The dtypes that autocast casts to."""
    devices = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    return tuple((device, torch.get_autocast_dtype(device)) for device in devices)


def _is_watched(module: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether somebody may see results on the way: hooks of modules, subclasses of tensors."""
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return True
    if any(x._forward_hooks or x._forward_pre_hooks for x in module.modules() if x is not module):
        return True
    leaves = pytree.tree_leaves([list(arguments), dict(keywords)])
    return any(isinstance(x, Tensor) and type(x) not in (Tensor, torch.nn.Parameter) for x in leaves)


def _is_smaller(key: Any, other: Any, broadcasts: bool = True) -> bool:
    """Whether a signature is another one with sizes that are smaller, or the same.

    Args:
        key: the signature.
        other: another one.
        broadcasts: whether sizes may have become 1, so that they broadcast.
    """
    if len(key) != len(other) or key[0] != other[0]:
        return False
    for mine, theirs in zip(key[1:], other[1:], strict=True):
        if mine == theirs:
            continue
        if not (isinstance(mine, tuple) and isinstance(theirs, tuple) and len(mine) == len(theirs) == 4):
            return False
        if mine[1:] != theirs[1:] or len(mine[0]) != len(theirs[0]):
            return False
        if any(size > larger for size, larger in zip(mine[0], theirs[0], strict=True)):
            return False
        if not broadcasts and any(
            size == 1 < larger for size, larger in zip(mine[0], theirs[0], strict=True)
        ):
            return False
    return True
