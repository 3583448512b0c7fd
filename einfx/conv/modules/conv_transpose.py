"""A transposed convolution of any number of dimensions as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ...errors import OperandError
from ...padding import integer, positive
from ..checks import check_rank, shape_of
from ..functional import conv_transposeNd
from ..parameters import Numbers, per_dimension
from . import portable
from .arguments import conv_arguments, native_class, recording
from .exchange import require, sharing

__all__ = ["ConvTransposeNd"]

# A symbolic trace shows it as a call, with its arguments.
torch.fx.wrap("conv_transposeNd")


class ConvTransposeNd(_ConvTransposeNd):
    """A transposed convolution of any number of dimensions, as torch.nn.ConvTranspose1d to 3d.

    Parameters have torch's names, shapes and initial values, so that state dicts load either way.

    Args:
        N: the number of spatial dimensions.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        groups: in how many groups the channels are split.
        bias: whether to add a bias.
        dilation: outputs between neighbouring elements of the kernel.
        padding_mode: ``"zeros"``, the only one there is.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Raises:
        OperandError: numbers that aren't positive or don't fit one another, or another padding mode.

    Example:
        >>> up = ConvTransposeNd(4, 6, 2, kernel_size=2, stride=2)
        >>> up(torch.randn(1, 6, 2, 2, 3, 3)).shape
        torch.Size([1, 2, 4, 4, 6, 6])
    """

    __constants__ = [*_ConvTransposeNd.__constants__, "N"]  # noqa: RUF012 (as torch spells it)

    def __init__(
        self,
        N: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Numbers = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = positive("N", N)
        channels = in_channels, out_channels, groups
        kernel, strides, dilations = conv_arguments(n, channels, kernel_size, stride, dilation)
        if padding_mode != "zeros":
            raise OperandError(
                "only 'zeros' padding mode is supported for ConvTransposeNd, but got "
                f"padding_mode={padding_mode!r}"
            )
        if isinstance(padding, str):
            raise OperandError(
                f"padding={padding!r} is not supported for transposed convolutions: give numbers"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            strides,
            per_dimension("padding", padding, n),
            dilations,
            True,
            per_dimension("output_padding", output_padding, n),
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )
        self.N = n

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution of an input.

        Args:
            input: shape: (batch, in_channels, *sizes), or without the batch.
            output_size: the sizes of the output, in the place of the module's output padding.

        Returns:
            A tensor, shape: (batch, out_channels, *output sizes), or without the batch.

        Raises:
            OperandError: an input whose rank, channels or sizes don't fit, or an ``output_size`` that no
                output padding leads to.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            extra = self._output_padding(
                input,
                output_size,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                self.kernel_size,  # type: ignore[arg-type]
                self.N,
                self.dilation,  # type: ignore[arg-type]
            )
            return portable.transposed_convolution(
                input,
                self.weight,
                self.bias,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                extra,
                self.groups,
                self.dilation,  # type: ignore[arg-type]
            )
        else:
            return self._convolve(input, output_size)

    def _convolve(self, x: Tensor, output_size: list[int] | None) -> Tensor:
        assert isinstance(self.padding, tuple)
        extra = self.output_padding
        if output_size is not None:
            extra = self._extra(x, output_size)
        if recording(x):
            strides, dilations = list(self.stride), list(self.dilation)
            return portable.transposed_convolution(
                x, self.weight, self.bias, strides, list(self.padding), list(extra), self.groups, dilations
            )
        return conv_transposeNd(
            x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _extra(self, x: Tensor, output_size: list[int]) -> tuple[int, ...]:
        """The output padding that leads to an output size, with which batch and channels may come along."""
        assert isinstance(self.padding, tuple)
        check_rank("input", shape_of("input", x), self.N, "conv_transpose")
        if not isinstance(output_size, Sequence) or len(output_size) not in (self.N, x.ndim):
            raise OperandError(
                f"output_size must have {self.N} or {x.ndim} elements for an input of {x.ndim} dimensions, "
                f"but got output_size={output_size!r}"
            )
        inputs = x.shape[-self.N :]
        sizes = [integer("output_size", size) for size in output_size[-self.N :]]
        least = [
            (inputs[i] - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (kernel - 1) + 1
            for i, kernel in enumerate(self.kernel_size)
        ]
        most = [size + stride - 1 for size, stride in zip(least, self.stride, strict=True)]
        if any(not low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)):
            raise OperandError(
                f"requested output_size={list(output_size)}, but valid sizes range from {least} to {most} "
                f"(for an input of {list(inputs)})"
            )
        return tuple(size - low for size, low in zip(sizes, least, strict=True))

    def extra_repr(self) -> str:
        """The arguments, as torch shows them, after the number of dimensions."""
        return f"{self.N}, {super().extra_repr()}"  # type: ignore[no-untyped-call]

    @classmethod
    def from_nn(cls, module: nn.Module) -> ConvTransposeNd:
        """A module with the very parameters, the flags and the hooks of one of torch.nn.

        Args:
            module: a torch.nn.ConvTranspose1d, ConvTranspose2d or ConvTranspose3d, or a subclass that
                computes the same.

        Raises:
            UsageError: another module, or a lazy one that hasn't been called yet.

        Example:
            >>> native = nn.ConvTranspose2d(3, 4, 5)
            >>> ConvTransposeNd.from_nn(native).bias is native.bias
            True
        """
        require(
            module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "ConvTransposeNd.from_nn"
        )
        made = sharing(module, cls)
        made._adopted()
        return made

    def to_nn(self) -> nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d:
        """A module of torch.nn with the very parameters, the flags and the hooks of this one.

        Raises:
            UsageError: four dimensions or more, which torch.nn has no module for.

        Example:
            >>> ConvTransposeNd(1, 3, 4, 5, stride=2).to_nn()
            ConvTranspose1d(3, 4, kernel_size=(5,), stride=(2,))
        """
        made = sharing(
            self, native_class(self.N, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        )
        del made.N
        return made  # type: ignore[return-value]

    def _adopted(self) -> None:
        """Complete the state that a module of torch.nn had."""
        self.N = len(self.kernel_size)
