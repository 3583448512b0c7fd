"""Views of tensors as data: what a simplified expression does to an operand before it is contracted.

A step replaces dimensions of a tensor without touching its elements. Steps are small frozen records, so that
expressions can be compared, cached and printed; :meth:`Step.apply` does to a tensor what :meth:`Step.shape`
and :meth:`Step.strides` say of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

from torch import Tensor

__all__ = ["Flip", "Merge", "Sizes", "Slice", "Split", "Squeeze", "Step", "View", "Window"]

Sizes = tuple[int, ...]


class Step(ABC):
    """One change of the dimensions of a tensor."""

    @abstractmethod
    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""

    @abstractmethod
    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""

    @abstractmethod
    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""


@dataclass(frozen=True)
class Split(Step):
    """One dimension as several, the last running fastest.

    Example:
        >>> import torch
        >>> Split(0, (2, 3)).apply(torch.arange(6)).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """

    dim: int
    sizes: Sizes

    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""
        split: Tensor = tensor.unflatten(self.dim, self.sizes)
        return split

    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""
        return (*shape[: self.dim], *self.sizes, *shape[self.dim + 1 :])

    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""
        inner = [strides[self.dim] * prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        return (*strides[: self.dim], *inner, *strides[self.dim + 1 :])


@dataclass(frozen=True)
class Merge(Step):
    """A dimension and the next one as one. It is a view only where they lie in memory as one would.

    Example:
        >>> import torch
        >>> Merge(0).apply(torch.ones(2, 3, 4)).shape
        torch.Size([6, 4])
    """

    dim: int

    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""
        return tensor.flatten(self.dim, self.dim + 1)

    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""
        return (*shape[: self.dim], shape[self.dim] * shape[self.dim + 1], *shape[self.dim + 2 :])

    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""
        if shape[self.dim + 1] == 1:
            return (*strides[: self.dim + 1], *strides[self.dim + 2 :])
        return (*strides[: self.dim], *strides[self.dim + 1 :])

    def is_view(self, shape: Sizes, strides: Sizes) -> bool:
        """Whether the two dimensions lie in memory as one does."""
        outer, inner = self.dim, self.dim + 1
        return 1 in (shape[outer], shape[inner]) or strides[outer] == strides[inner] * shape[inner]


@dataclass(frozen=True)
class Slice(Step):
    """``length`` elements of a dimension, from ``start``, ``step`` apart.

    Example:
        >>> import torch
        >>> Slice(0, start=1, length=3, step=2).apply(torch.arange(8)).tolist()
        [1, 3, 5]
    """

    dim: int
    start: int
    length: int
    step: int = 1

    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""
        stop = self.start + (self.length - 1) * self.step + 1
        return tensor[(slice(None),) * self.dim + (slice(self.start, stop, self.step),)]

    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""
        return (*shape[: self.dim], self.length, *shape[self.dim + 1 :])

    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""
        return (*strides[: self.dim], strides[self.dim] * self.step, *strides[self.dim + 1 :])


@dataclass(frozen=True)
class Squeeze(Step):
    """Without a dimension of size 1."""

    dim: int

    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""
        return tensor.squeeze(self.dim)

    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""
        return (*shape[: self.dim], *shape[self.dim + 1 :])

    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""
        return (*strides[: self.dim], *strides[self.dim + 1 :])


@dataclass(frozen=True)
class Window(Step):
    """One dimension as windows and positions in the window: element ``stride * o + dilation * k`` at [o, k].

    Args:
        dim: the dimension; the positions in the window become the next one.
        count: the number of windows.
        stride: elements between windows.
        size: the number of positions in a window.
        dilation: elements between positions.

    Example:
        >>> import torch
        >>> Window(0, count=3, stride=2, size=2).apply(torch.arange(6)).tolist()
        [[0, 1], [2, 3], [4, 5]]
    """

    dim: int
    count: int
    stride: int
    size: int
    dilation: int = 1

    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""
        span = self.dilation * (self.size - 1) + 1
        windows = tensor.unfold(self.dim, span, self.stride).narrow(self.dim, 0, self.count)
        if self.dilation > 1:
            windows = windows[..., :: self.dilation]
        return windows.movedim(-1, self.dim + 1)

    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""
        return (*shape[: self.dim], self.count, self.size, *shape[self.dim + 1 :])

    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""
        here = strides[self.dim]
        both = (here * self.stride, here * self.dilation)
        return (*strides[: self.dim], *both, *strides[self.dim + 1 :])


@dataclass(frozen=True)
class Flip(Step):
    """A dimension read backwards: the one step that copies, meant for small tensors such as kernels."""

    dim: int

    def apply(self, tensor: Tensor) -> Tensor:
        """The changed tensor."""
        return tensor.flip(self.dim)

    def shape(self, shape: Sizes) -> Sizes:
        """The shape that a tensor of this shape gets."""
        return shape

    def strides(self, shape: Sizes, strides: Sizes) -> Sizes:
        """The strides that a tensor of this shape and these strides gets."""
        return _contiguous(shape)


@dataclass(frozen=True)
class View:
    """An operand: one of the caller's tensors, seen through steps.

    Args:
        position: which of the caller's tensors.
        base: the shape that the tensor must have.
        steps: what to do to it, in order.

    Example:
        >>> View(0, (4, 6), (Split(1, (2, 3)),)).shape
        (4, 2, 3)
    """

    position: int
    base: Sizes
    steps: tuple[Step, ...] = ()

    @property
    def shape(self) -> Sizes:
        """The shape after all steps."""
        shape = self.base
        for step in self.steps:
            shape = step.shape(shape)
        return shape

    @property
    def strides(self) -> Sizes:
        """The strides after all steps, of a tensor that was contiguous before."""
        shape, strides = self.base, _contiguous(self.base)
        for step in self.steps:
            shape, strides = step.shape(shape), step.strides(shape, strides)
        return strides

    def then(self, *steps: Step) -> View:
        """The view with further steps."""
        return View(self.position, self.base, (*self.steps, *steps))

    def apply(self, tensor: Tensor) -> Tensor:
        """The caller's tensor, seen through the steps."""
        for step in self.steps:
            tensor = step.apply(tensor)
        return tensor


def _contiguous(shape: Sizes) -> Sizes:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
