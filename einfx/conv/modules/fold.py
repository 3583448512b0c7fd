"""Folding over any number of dimensions as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...padding import paddings
from ..functional import foldNd
from ..parameters import Numbers, per_dimension
from . import portable
from .arguments import dimensions, positive_numbers, recording
from .exchange import require, sharing

__all__ = ["FoldNd"]

# A symbolic trace shows it as a call, with its arguments.
torch.fx.wrap("foldNd")


class FoldNd(nn.Module):
    """Patches of any number of dimensions added up, as torch.nn.Fold does of two.

    Args:
        output_size: the sizes of the result: one for each dimension. Where all arguments are single numbers
            there are two dimensions, as in torch.
        kernel_size: elements of a patch: a number, or one for each dimension.
        dilation: elements of the result between neighbouring elements of a patch.
        padding: elements cut from either side: a number, or one for each dimension.
        stride: elements of the result between neighbouring patches.

    Raises:
        OperandError: numbers that aren't positive, or different numbers of dimensions.

    Example:
        >>> fold = FoldNd((5, 6, 7), 3)
        >>> fold(torch.ones(1, 2 * 27, 60)).shape
        torch.Size([1, 2, 5, 6, 7])
    """

    __constants__ = ["output_size", "kernel_size", "dilation", "padding", "stride"]  # noqa: RUF012 (as torch spells it)

    def __init__(
        self,
        output_size: Numbers,
        kernel_size: Numbers,
        dilation: Numbers = 1,
        padding: Numbers = 0,
        stride: Numbers = 1,
    ) -> None:
        super().__init__()
        n = dimensions(output_size, kernel_size, dilation, padding, stride) or 2
        self.output_size = positive_numbers("output_size", output_size, n)
        self.kernel_size = positive_numbers("kernel_size", kernel_size, n)
        self.dilation = positive_numbers("dilation", dilation, n)
        self.padding = per_dimension("padding", padding, n)
        self.stride = positive_numbers("stride", stride, n)
        for cut in self.padding:
            paddings(1, 1, cut, 1)

    def forward(self, input: Tensor) -> Tensor:
        """The sum of patches.

        Args:
            input: shape: (batch, channels * kernel elements, patches), or without the batch.

        Returns:
            A tensor, shape: (batch, channels, *output_size), or without the batch.

        Raises:
            OperandError: patches of another number or size.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return portable.fold(
                input,
                self.output_size,  # type: ignore[arg-type]
                self.kernel_size,  # type: ignore[arg-type]
                self.dilation,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                self.stride,  # type: ignore[arg-type]
            )
        else:
            return self._fold(input)

    def _fold(self, x: Tensor) -> Tensor:
        if recording(x):
            sizes, kernel, dilation = list(self.output_size), list(self.kernel_size), list(self.dilation)
            return portable.fold(x, sizes, kernel, dilation, list(self.padding), list(self.stride))
        return foldNd(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )

    @classmethod
    def from_nn(cls, module: nn.Module) -> FoldNd:
        """A module that does what a torch.nn.Fold does, with its flags and hooks.

        Raises:
            UsageError: another module, or one with a forward of its own.

        Example:
            >>> FoldNd.from_nn(nn.Fold(4, 3)).output_size
            (4, 4)
        """
        require(module, (nn.Fold,), "FoldNd.from_nn")
        made = sharing(module, cls)
        made._adopted()
        return made

    def to_nn(self) -> nn.Fold:
        """A torch.nn.Fold that does what this module does of two dimensions, with its flags and hooks.

        Raises:
            UsageError: another number of dimensions.

        Example:
            >>> FoldNd((4, 5), 3).to_nn().output_size
            (4, 5)
        """
        if len(self.kernel_size) != 2:
            raise UsageError(f"torch.nn.Fold has two dimensions, not {len(self.kernel_size)}")
        return sharing(self, nn.Fold)

    def _adopted(self) -> None:
        """Complete the state that a torch.nn.Fold had."""
        for name in self.__constants__:
            setattr(self, name, per_dimension(name, getattr(self, name), 2))
