"""Convolution as a module."""

from __future__ import annotations

import torch
from torch import nn

from ....conv import modules
from ..utils import sync_parameters

__all__ = ["ConvNd"]


class ConvNd(modules.ConvNd):
    """A convolution of any number of dimensions; see :class:`einfx.conv.modules.ConvNd`.

    Args:
        N: the number of spatial dimensions.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: elements added on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        bias: whether to add a bias.
        padding_mode: what is added; all modes of torch.nn's, of which einconv has ``"zeros"`` alone.
        device: where the parameters are made.
        dtype: the dtype of the parameters.
        simplify: einconv's; the result is the same either way.

    Raises:
        OperandError: numbers that aren't positive or don't fit one another, or an unknown padding.

    Example:
        >>> ConvNd(2, 3, 4, 5, simplify=False)
        ConvNd(2, 3, 4, kernel_size=(5, 5), stride=(1, 1), simplify=False)
    """

    def __init__(
        self,
        N: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        simplify: bool = True,
    ) -> None:
        super().__init__(
            N,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.simplify = simplify

    @classmethod
    def from_nn_Conv(cls, conv_module: nn.Conv1d | nn.Conv2d | nn.Conv3d, simplify: bool = True) -> ConvNd:
        """A module with copies of the parameters of one of torch.nn; ``from_nn`` shares them.

        Args:
            conv_module: a torch.nn.Conv1d, Conv2d or Conv3d.
            simplify: einconv's; the result is the same either way.

        Raises:
            UsageError: another module.

        Example:
            >>> ConvNd.from_nn_Conv(nn.Conv1d(2, 3, 4))
            ConvNd(1, 2, 3, kernel_size=(4,), stride=(1,))
        """
        native = modules.ConvNd.from_nn(conv_module)
        made = cls(
            native.N,
            native.in_channels,
            native.out_channels,
            native.kernel_size,
            native.stride,
            native.padding,
            native.dilation,
            native.groups,
            native.bias is not None,
            native.padding_mode,
            native.weight.device,
            native.weight.dtype,
            simplify,
        )
        sync_parameters(conv_module, made)
        return made

    def extra_repr(self) -> str:
        """The arguments."""
        return super().extra_repr() + ("" if self.simplify else ", simplify=False")

    def _adopted(self) -> None:
        """Complete the state that a module of torch.nn had."""
        super()._adopted()
        self.simplify = True
