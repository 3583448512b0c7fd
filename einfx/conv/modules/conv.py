"""A convolution of any number of dimensions as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import OperandError
from ...padding import paddings, positive
from ..functional import convNd
from ..parameters import Numbers, per_dimension
from . import portable
from .arguments import conv_arguments, native_class, recording
from .boundary import pad
from .exchange import require, sharing

__all__ = ["ConvNd"]

# A symbolic trace shows these as calls, with their arguments.
torch.fx.wrap("convNd")
torch.fx.wrap("pad")

_MODES = ("zeros", "reflect", "replicate", "circular")


class ConvNd(_ConvNd):
    """A convolution of any number of dimensions, as torch.nn.Conv1d, Conv2d and Conv3d are of one to three.

    Parameters have torch's names, shapes and initial values, so that state dicts load either way.

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
        padding_mode: what is added: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Raises:
        OperandError: numbers that aren't positive or don't fit one another, or an unknown padding.

    Example:
        >>> conv = ConvNd(4, 2, 6, kernel_size=3, padding=1)
        >>> conv, conv(torch.randn(1, 2, 4, 5, 6, 7)).shape
        (ConvNd(4, 2, 6, kernel_size=(3, 3, 3, 3), stride=(1, 1, 1, 1), padding=(1, 1, 1, 1)),
         torch.Size([1, 6, 4, 5, 6, 7]))
    """

    __constants__ = [*_ConvNd.__constants__, "N"]  # noqa: RUF012 (as torch spells it)

    def __init__(
        self,
        N: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = positive("N", N)
        channels = in_channels, out_channels, groups
        kernel, strides, dilations = conv_arguments(n, channels, kernel_size, stride, dilation)
        if padding_mode not in _MODES:
            raise OperandError(f"padding_mode must be one of {_MODES}, but got padding_mode={padding_mode!r}")
        sides = padding if isinstance(padding, str) else per_dimension("padding", padding, n)
        for i in range(n):
            paddings(kernel[i], strides[i], sides if isinstance(sides, str) else sides[i], dilations[i])
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            strides,
            sides,
            dilations,
            False,
            (0,) * n,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device=device,
            dtype=dtype,
        )
        self.N = n

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of an input.

        Args:
            input: shape: (batch, in_channels, *sizes), or without the batch.

        Returns:
            A tensor, shape: (batch, out_channels, *output sizes), or without the batch.

        Raises:
            OperandError: an input whose rank, channels or sizes don't fit.
        """
        x = input
        sides = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            x = pad(x, sides, self.padding_mode)
            sides = [0] * len(sides)
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return portable.convolution(
                x,
                self.weight,
                self.bias,
                self.stride,  # type: ignore[arg-type]
                sides,
                self.dilation,  # type: ignore[arg-type]
                self.groups,
            )
        else:
            return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        padded = self.padding_mode != "zeros"
        if recording(x):
            sides = [0] * (2 * self.N) if padded else list(self._reversed_padding_repeated_twice)
            strides, dilations = list(self.stride), list(self.dilation)
            return portable.convolution(x, self.weight, self.bias, strides, sides, dilations, self.groups)
        padding = 0 if padded else self.padding
        return convNd(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them, after the number of dimensions."""
        return f"{self.N}, {super().extra_repr()}"  # type: ignore[no-untyped-call]

    @classmethod
    def from_nn(cls, module: nn.Module) -> ConvNd:
        """A module with the very parameters, the flags and the hooks of one of torch.nn.

        Args:
            module: a torch.nn.Conv1d, Conv2d or Conv3d, or a subclass that computes the same.

        Raises:
            UsageError: another module, or a lazy one that hasn't been called yet.

        Example:
            >>> native = nn.Conv2d(3, 4, 5)
            >>> ConvNd.from_nn(native).weight is native.weight
            True
        """
        require(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d), "ConvNd.from_nn")
        made = sharing(module, cls)
        made._adopted()
        return made

    def to_nn(self) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
        """A module of torch.nn with the very parameters, the flags and the hooks of this one.

        Raises:
            UsageError: four dimensions or more, which torch.nn has no module for.

        Example:
            >>> ConvNd(1, 3, 4, 5, stride=2).to_nn()
            Conv1d(3, 4, kernel_size=(5,), stride=(2,))
        """
        made = sharing(self, native_class(self.N, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
        del made.N
        return made  # type: ignore[return-value]

    def _adopted(self) -> None:
        """Complete the state that a module of torch.nn had."""
        self.N = len(self.kernel_size)
