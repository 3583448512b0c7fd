"""Layers of well-known networks, as their papers have them, without biases."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["FOUR_DIMENSIONS", "LAYERS", "TRANSPOSED", "WINDOWS", "Layer"]


PATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class Layer:
    """A convolution, the same along all of its dimensions.

    Attributes:
        name: the network, and what tells the layer from the others of it.
        channels: of the input and of the output.
        size: the input's, along each dimension.
        kernel: elements of the kernel along each dimension.
        batch: how many inputs are convolved: that takes some ten milliseconds on one thread.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side.
        groups: in how many groups the channels are split.
        dimensions: how many there are.
        transposed: whether it's the transposed convolution.
        output_padding: elements added on the right of a transposed one's output.
    """

    name: str
    channels: tuple[int, int]
    size: int
    kernel: int
    batch: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dimensions: int = 2
    transposed: bool = False
    output_padding: int = 0

    @property
    def output_size(self) -> int:
        """The output's size along each dimension."""
        if self.transposed:
            return (self.size - 1) * self.stride + self.kernel - 2 * self.padding + self.output_padding
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def unfolded_batch(self) -> int:
        """How many inputs are unfolded: eight, or as many as patches of 64 MiB hold."""
        return max(1, min(8, PATCH_BYTES // (4 * prod(self.patches(1)))))

    @property
    def input_bytes(self) -> int:
        """What one input takes in float32."""
        return 4 * self.channels[0] * int(self.size**self.dimensions)

    @property
    def side(self) -> int:
        """Rows of a Kronecker factor of one group."""
        return self.channels[0] // self.groups * int(self.kernel**self.dimensions)

    def shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The shapes of input, kernel and output."""
        inputs, outputs = self.channels
        kernel = (inputs, outputs // self.groups) if self.transposed else (outputs, inputs // self.groups)
        return (
            (batch, inputs, *(self.size,) * self.dimensions),
            (*kernel, *(self.kernel,) * self.dimensions),
            (batch, outputs, *(self.output_size,) * self.dimensions),
        )

    def operands(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """An input, a kernel, and a vector in the shape of the output, all standard normal."""
        generator = torch.Generator().manual_seed(0)
        x, weight, v = (torch.randn(shape, generator=generator) for shape in self.shapes(batch))
        return x, weight, v

    def patches(self, batch: int) -> tuple[int, int, int]:
        """The shape of the unfolded input."""
        positions, elements = self.output_size**self.dimensions, self.kernel**self.dimensions
        return batch, self.channels[0] * elements, positions

    def numbers(self) -> dict[str, int]:
        """The keyword arguments of torch's functionals."""
        made = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        return {**made, "output_padding": self.output_padding} if self.transposed else made

    def __str__(self) -> str:
        """Shapes and numbers, for the note of a row."""
        return self.with_batch(self.batch)

    def with_batch(self, batch: int) -> str:
        """The same for so many inputs."""
        x, weight, out = ("x".join(map(str, shape)) for shape in self.shapes(batch))
        numbers = {
            "stride": self.stride != 1,
            "padding": self.padding != 0,
            "groups": self.groups != 1,
            "output_padding": self.output_padding != 0,
        }
        said = [f", {name} {getattr(self, name)}" for name, said in numbers.items() if said]
        return f"{x} by {weight}{''.join(said).replace('_', ' ')} to {out}"


# He et al. 2016, "Deep residual learning for image recognition", 18 layers.
_RESNET = (
    Layer("resnet18 7x7/2", (3, 64), 224, 7, 4, stride=2, padding=3),
    Layer("resnet18 3x3, 64", (64, 64), 56, 3, 8, padding=1),
    Layer("resnet18 3x3, 128", (128, 128), 28, 3, 8, padding=1),
    Layer("resnet18 3x3, 256", (256, 256), 14, 3, 8, padding=1),
    Layer("resnet18 3x3, 512", (512, 512), 7, 3, 8, padding=1),
    Layer("resnet18 3x3/2", (64, 128), 56, 3, 8, stride=2, padding=1),
    Layer("resnet18 1x1/2", (64, 128), 56, 1, 16, stride=2),
)

# Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", the block of 24 channels.
_MOBILENET = (
    Layer("mobilenetv2 1x1 expand", (24, 144), 56, 1, 16),
    Layer("mobilenetv2 depthwise 3x3", (144, 144), 56, 3, 16, padding=1, groups=144),
    Layer("mobilenetv2 depthwise 3x3/2", (144, 144), 56, 3, 16, stride=2, padding=1, groups=144),
    Layer("mobilenetv2 1x1 project", (144, 24), 56, 1, 16),
)

# Liu et al. 2022, "A ConvNet for the 2020s", the tiny one.
_CONVNEXT = (
    Layer("convnext 4x4/4", (3, 96), 224, 4, 16, stride=4),
    Layer("convnext depthwise 7x7", (96, 96), 56, 7, 8, padding=3, groups=96),
    Layer("convnext 2x2/2", (96, 192), 56, 2, 8, stride=2),
)

# Springenberg et al. 2015, "Striving for simplicity: the all convolutional net", network C.
_ALL_CNN = (
    Layer("all-cnn 3x3", (96, 96), 32, 3, 8, padding=1),
    Layer("all-cnn 3x3/2", (96, 96), 32, 3, 16, stride=2, padding=1),
    Layer("all-cnn 3x3 widening", (96, 192), 16, 3, 16, padding=1),
    Layer("all-cnn 1x1", (192, 192), 8, 1, 128),
)

LAYERS = (*_RESNET, *_MOBILENET, *_CONVNEXT, *_ALL_CNN)

WINDOWS = tuple(layer for layer in LAYERS if layer.kernel > 1)
"""Those that see more than one input at a time."""

TRANSPOSED = (
    # Radford et al. 2016, "Unsupervised representation learning with deep convolutional GANs".
    Layer("dcgan 4x4/2", (256, 128), 16, 4, 4, stride=2, padding=1, transposed=True),
    # Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation".
    Layer("unet 2x2/2", (256, 128), 28, 2, 4, stride=2, transposed=True),
    # Johnson et al. 2016, "Perceptual losses for real-time style transfer and super-resolution".
    Layer("style 3x3/2", (128, 64), 32, 3, 4, stride=2, padding=1, output_padding=1, transposed=True),
)

FOUR_DIMENSIONS = (
    Layer("4d 3x3x3x3", (4, 8), 8, 3, 8, padding=1, dimensions=4),
    Layer("4d 2x2x2x2/2", (4, 8), 12, 2, 8, stride=2, dimensions=4),
)
