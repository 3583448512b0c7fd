"""Unfolding over any number of dimensions as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...padding import integer, paddings, positive
from ..functional import unfoldNd
from ..parameters import Numbers, per_dimension
from . import portable
from .arguments import dimensions, positive_numbers, recording
from .exchange import require, sharing

__all__ = ["UnfoldNd"]

# A symbolic trace shows it as a call, with its arguments.
torch.fx.wrap("unfoldNd")


class UnfoldNd(nn.Module):
    """Patches of an input of any number of dimensions, as torch.nn.Unfold takes them of two.

    Args:
        kernel_size: elements of a patch: a number, or one for each dimension. Where this and the following
            are single numbers, inputs are batched, and their rank says how many dimensions there are.
        dilation: inputs between neighbouring elements of a patch.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        stride: inputs between neighbouring patches.

    Raises:
        OperandError: numbers that aren't positive, an unknown padding, or different numbers of dimensions.

    Example:
        >>> UnfoldNd(3)(torch.randn(1, 2, 5, 6, 7)).shape
        torch.Size([1, 54, 60])
        >>> UnfoldNd((3,))(torch.randn(2, 5)).shape
        torch.Size([6, 3])
    """

    __constants__ = ["kernel_size", "dilation", "padding", "stride"]  # noqa: RUF012 (as torch spells it)

    def __init__(
        self,
        kernel_size: Numbers,
        dilation: Numbers = 1,
        padding: Numbers | str = 0,
        stride: Numbers = 1,
    ) -> None:
        super().__init__()
        n = dimensions(kernel_size, dilation, padding, stride)
        self.kernel_size = _like(n, "kernel_size", kernel_size)
        self.dilation = _like(n, "dilation", dilation)
        self.stride = _like(n, "stride", stride)
        self.padding: int | str | tuple[int, ...] = padding  # type: ignore[assignment]
        if not isinstance(padding, str):
            sides = per_dimension("padding", padding, n or 1)
            self.padding = sides if n else sides[0]
        self._sides = self._both_sides()

    def forward(self, input: Tensor) -> Tensor:
        """The patches of an input.

        Args:
            input: shape: (batch, channels, *sizes); without the batch where the arguments say so by their
                length.

        Returns:
            A tensor, shape: (batch, channels * kernel elements, patches), or without the batch.

        Raises:
            OperandError: an input whose rank or sizes don't fit.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            if isinstance(self.kernel_size, int):
                n = input.dim() - 2
                return portable.unfold(
                    input,
                    [self.kernel_size] * n,
                    [self.dilation] * n,  # type: ignore[list-item]
                    self._sides * n,
                    [self.stride] * n,  # type: ignore[list-item]
                )
            else:
                return portable.unfold(input, self.kernel_size, self.dilation, self._sides, self.stride)  # type: ignore[arg-type]
        else:
            return self._unfold(input)

    def _unfold(self, x: Tensor) -> Tensor:
        if recording(x):
            n = x.dim() - 2 if isinstance(self.kernel_size, int) else len(self.kernel_size)
            sides = self._sides * n if isinstance(self.kernel_size, int) else self._sides
            kernel, dilation, stride = (
                list(per_dimension("", value, n)) for value in (self.kernel_size, self.dilation, self.stride)
            )
            return portable.unfold(x, kernel, dilation, sides, stride)
        return unfoldNd(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )

    @classmethod
    def from_nn(cls, module: nn.Module) -> UnfoldNd:
        """A module that does what a torch.nn.Unfold does, with its flags and hooks.

        Raises:
            UsageError: another module, or one with a forward of its own.

        Example:
            >>> UnfoldNd.from_nn(nn.Unfold(3))
            UnfoldNd(kernel_size=(3, 3), dilation=(1, 1), padding=(0, 0), stride=(1, 1))
        """
        require(module, (nn.Unfold,), "UnfoldNd.from_nn")
        made = sharing(module, cls)
        made._adopted()
        return made

    def to_nn(self) -> nn.Unfold:
        """A torch.nn.Unfold that does what this module does of two dimensions, with its flags and hooks.

        Raises:
            UsageError: another number of dimensions, or padding that isn't the same on both sides.

        Example:
            >>> UnfoldNd(3).to_nn()
            Unfold(kernel_size=3, dilation=1, padding=0, stride=1)
        """
        if not isinstance(self.kernel_size, int) and len(self.kernel_size) != 2:
            raise UsageError(f"torch.nn.Unfold has two dimensions, not {len(self.kernel_size)}")
        if self._sides[::2] != self._sides[1::2]:
            raise UsageError(f"torch.nn.Unfold pads both sides alike, but padding={self.padding!r} doesn't")
        made = sharing(self, nn.Unfold)
        sides = self._sides[::2]
        made.padding = sides[0] if len(sides) == 1 else tuple(reversed(sides))
        del made._sides
        return made

    def _adopted(self) -> None:
        """Complete the state that a torch.nn.Unfold had: two dimensions, with or without a batch."""
        for name in ("kernel_size", "dilation", "padding", "stride"):
            setattr(self, name, per_dimension(name, getattr(self, name), 2))
        self._sides = self._both_sides()

    def _both_sides(self) -> list[int]:
        """Padding on either side, the last dimension first; one pair for all where their number is open."""
        n = 1 if isinstance(self.kernel_size, int) else len(self.kernel_size)
        columns = (per_dimension("", value, n) for value in (self.kernel_size, self.stride, self.dilation))
        padded = (self.padding,) * n if isinstance(self.padding, (int, str)) else self.padding
        pairs = [
            paddings(kernel, stride, padding, dilation)
            for (kernel, stride, dilation), padding in zip(zip(*columns, strict=True), padded, strict=True)
        ]
        return [side for pair in reversed(pairs) for side in pair]


def _like(n: int, name: str, value: Numbers) -> int | tuple[int, ...]:
    """An argument for each of n dimensions, or as a single number where n is open."""
    return positive_numbers(name, value, n) if n else positive(name, integer(name, value))
