"""Index patterns: which input element each position of a sliding kernel meets, as a symbolic operand.

Along one dimension a convolution is a contraction with a tensor of zeros and ones,
``y[o] = sum_k sum_i w[k] * x[i] * P[k, o, i]``, where ``P[k, o, i]`` is 1 exactly where
``i == dilation * k + stride * o - padding``. An :class:`IndexPattern` is that tensor by its five numbers: it
can be compared, rewritten and lowered to views and native kernels, and is built only on demand.

The formula (Hayashi et al. 2019, "Exploring unexplored tensor network decompositions for convolutional
neural networks"; Dangel 2023, "Convolutions through the lens of tensor networks") treats ``k`` and ``o``
alike, which is where most rewrites come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator

from .errors import OperandError
from .kernel_slices import KernelSlice, kernel_slices
from .padding import Padding, paddings, positive
from .pattern_functions import known_taker

__all__ = ["Axis", "IndexPattern", "KernelSlice", "pattern_of_shape"]

Axis = Literal["kernel", "output", "input"]
"""A dimension of a pattern."""

_AXES: tuple[Axis, ...] = ("kernel", "output", "input")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class IndexPattern:
    """The 0/1 operand of a convolution along one dimension, of shape (kernel, output, input).

    Args:
        input_size: elements of the input along the dimension, without padding.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side of the input: a number for both, ``"valid"`` for none, ``"same"`` for as
            many outputs as inputs (with stride 1), or a pair for the left and the right. A negative number
            in a pair crops the input, as in ``torch.nn.functional.pad``. It is kept as a pair.
        dilation: inputs between neighbouring elements of the kernel.

    Attributes:
        output_size: the number of positions of the kernel.

    Raises:
        OperandError: a size that isn't positive, a padding that isn't known, or a kernel that is larger than
            the padded input.

    Example:
        >>> pattern = IndexPattern(5, 3, stride=2, padding=1)
        >>> pattern.shape
        (3, 3, 5)
        >>> print(pattern.diagram())  # outputs down, inputs across: the kernel position where they meet
        12...
        .012.
        ...01
        >>> pattern == IndexPattern(5, 3, 2, (1, 1)), pattern
        (True, IndexPattern(5, 3, stride=2, padding=1))
    """

    input_size: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    output_size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("input_size", "kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        pair = paddings(self.kernel_size, self.stride, self.padding, self.dilation)
        object.__setattr__(self, "padding", pair)
        padded = self.input_size + sum(pair)
        if padded < self.kernel_span:
            raise OperandError(
                f"kernel size can't be greater than the padded input: kernel_size={self.kernel_size} with "
                f"dilation={self.dilation} spans {self.kernel_span} elements, but input_size="
                f"{self.input_size} with padding={_shown(pair)} has {padded}"
            )
        object.__setattr__(self, "output_size", (padded - self.kernel_span) // self.stride + 1)

    @property
    def numbers(self) -> tuple[int, int, int, tuple[int, int], int]:
        """The arguments that make an equal pattern, in their order."""
        return (self.input_size, self.kernel_size, self.stride, (self.left, self.right), self.dilation)

    @property
    def kernel_span(self) -> int:
        """Elements from the first to the last that a kernel covers."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def left(self) -> int:
        """Zeros to the left of the input: ``i == dilation * k + stride * o - left``."""
        assert isinstance(self.padding, tuple)
        return self.padding[0]

    @property
    def right(self) -> int:
        """Zeros to the right of the input; more than the kernel reaches change nothing."""
        assert isinstance(self.padding, tuple)
        return self.padding[1]

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the tensor: kernel, output, input."""
        return (self.kernel_size, self.output_size, self.input_size)

    @property
    def ndim(self) -> int:
        """The number of dimensions: 3."""
        return 3

    # How functions of tensors take it.

    @classmethod
    def __torch_function__(
        cls,
        function: Any,
        types: Any,
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        """Contractions take a pattern as it is; anything else takes ``tensor()``."""
        if isinstance(function, HigherOrderOperator):
            # A function of one's own that is differentiated or mapped, to which a pattern is a constant.
            with torch._C.DisableTorchFunctionSubclass():
                return function(*arguments, **(keywords or {}))
        substitute = known_taker(function)
        if substitute is None or not all(issubclass(kind, (IndexPattern, Tensor)) for kind in types):
            return NotImplemented
        return substitute(*arguments, **(keywords or {}))

    def __fx_create_arg__(self, tracer: fx.Tracer) -> fx.Node:
        """A graph holds no objects: in it a pattern is the call that makes it from its numbers."""
        return tracer.create_node("call_function", IndexPattern, self.numbers, {})

    def __repr__(self) -> str:
        parts = [str(self.input_size), str(self.kernel_size)]
        if self.stride != 1:
            parts.append(f"stride={self.stride}")
        if (self.left, self.right) != (0, 0):
            parts.append(f"padding={_shown((self.left, self.right))}")
        if self.dilation != 1:
            parts.append(f"dilation={self.dilation}")
        return f"IndexPattern({', '.join(parts)})"

    # What it is as a tensor.

    def tensor(self, dtype: torch.dtype = torch.bool, device: torch.device | str | None = None) -> Tensor:
        """The pattern as a new tensor of zeros and ones.

        Args:
            dtype: any dtype; 0 and 1 are exact in all of them.
            device: where to build it.

        Returns:
            A contiguous tensor, shape: (kernel, output, input).

        Example:
            >>> IndexPattern(3, 2).tensor(torch.int64).tolist()
            [[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]]
        """
        if not isinstance(dtype, torch.dtype):
            raise OperandError(
                f"{self!r}.tensor takes a dtype of torch, such as torch.float32, not {dtype!r}"
            )
        kernel, output, inputs = self.shape
        out = torch.zeros(self.shape, dtype=dtype, device=device)
        flat = out.view(-1)
        # Ones of one kernel position lie at equal distances in memory; so do those of one output.
        by_kernel = kernel <= output
        pattern = self if by_kernel else self.swapped()
        outer, inner = (output * inputs, inputs) if by_kernel else (inputs, output * inputs)
        for part in pattern.slices():
            if part.length:
                first = part.kernel * outer + part.output_start * inner + part.input_start
                step = inner + part.input_step
                flat[first : first + (part.length - 1) * step + 1 : step] = 1
        return out

    def slices(self) -> tuple[KernelSlice, ...]:
        """For every kernel position, the outputs for which it meets the input, and the inputs it meets.

        Contracting the pattern is one strided slice for each, without the tensor.

        Example:
            >>> for part in IndexPattern(5, 3, stride=2, padding=1).slices():
            ...     print(part.kernel, part.outputs, part.inputs)
            0 slice(1, 3, None) slice(1, 4, 2)
            1 slice(0, 3, None) slice(0, 5, 2)
            2 slice(0, 2, None) slice(1, 4, 2)
        """
        return self._slices

    @cached_property
    def _slices(self) -> tuple[KernelSlice, ...]:
        return kernel_slices(self.shape, stride=self.stride, left=self.left, dilation=self.dilation)

    @cached_property
    def ones(self) -> int:
        """The number of ones in the tensor."""
        return sum(part.length for part in self.slices())

    def diagram(self) -> str:
        """The pattern as text: a row for each output, a column for each input, in it the kernel position."""
        rows = [["."] * self.input_size for _ in range(self.output_size)]
        for part in self.slices():
            mark = _DIGITS[part.kernel] if part.kernel < len(_DIGITS) else "#"
            for step in range(part.length):
                rows[part.output_start + step][part.input_start + step * part.input_step] = mark
        return "\n".join("".join(row) for row in rows)

    # Facts from which rewrites follow.

    @cached_property
    def unpadded(self) -> bool:
        """Whether every kernel position meets an input for every output: no zero is ever read."""
        last = self.dilation * (self.kernel_size - 1) + self.stride * (self.output_size - 1) - self.left
        return self.left <= 0 and last < self.input_size

    @cached_property
    def injective(self) -> bool:
        """Whether no two pairs of kernel position and output share an element, padding included.

        ``dilation * k == stride * o`` has its first solution beyond 0 at ``k = stride / gcd``,
        ``o = dilation / gcd``; pairs are shared as soon as both lie within the kernel and the output.
        """
        common = gcd(self.stride, self.dilation)
        return self.kernel_size <= self.stride // common or self.output_size <= self.dilation // common

    @cached_property
    def identity(self) -> bool:
        """Whether it is the Kronecker delta of output and input, with a kernel of one element."""
        return (
            self.kernel_size == 1 and self.output_size == self.input_size and self.left == 0 and self.unpadded
        )

    @cached_property
    def canonical(self) -> IndexPattern:
        """The pattern with the same tensor whose stride, dilation and right padding are the plainest.

        Example:
            >>> IndexPattern(6, 1, stride=5, dilation=7).canonical
            IndexPattern(6, 1, stride=5)
            >>> IndexPattern(6, 3, stride=2, padding=(0, 0)).canonical == IndexPattern(
            ...     6, 3, stride=2, padding=(0, -1)
            ... ).canonical
            True
        """
        return pattern_of_shape(*self.shape, stride=self.stride, left=self.left, dilation=self.dilation)

    def live(self, axis: Axis) -> tuple[int, int]:
        """The range of positions of an axis outside which the tensor holds only zeros.

        Returns:
            Its start and its length; ``(0, 0)`` where the tensor holds no one at all.

        Example:
            >>> IndexPattern(11, 2, stride=4).live("input")  # the last five elements are never read
            (0, 10)
        """
        parts = [part for part in self.slices() if part.length]
        if axis == "kernel":
            live = [part.kernel for part in parts]
        elif axis == "output":
            live = [x for part in parts for x in (part.output_start, part.output_stop - 1)]
        else:
            live = [x for part in parts for x in (part.input_start, part.input_stop - 1)]
        return (min(live), max(live) - min(live) + 1) if live else (0, 0)

    # Rewrites: other patterns with the same ones.

    def swapped(self) -> IndexPattern:
        """The pattern with kernel and output in each other's place, which is an index pattern again.

        ``pattern.tensor()`` is ``pattern.swapped().tensor().transpose(0, 1)``: stride and dilation change
        places. A weight gradient is a convolution by this (Dangel 2023).

        Example:
            >>> IndexPattern(8, 3, stride=2).swapped()
            IndexPattern(8, 3, padding=(0, -1), dilation=2)
        """
        return pattern_of_shape(
            self.output_size,
            self.kernel_size,
            self.input_size,
            stride=self.dilation,
            left=self.left,
            dilation=self.stride,
        )

    def reversed(self) -> IndexPattern | None:
        """The pattern with output and input in each other's place, for the kernel read backwards.

        ``pattern.tensor()`` is ``pattern.reversed().tensor().flip(0).transpose(1, 2)``: a transposed
        convolution is a convolution with the reversed kernel.

        Returns:
            None where the stride isn't 1: then the inputs would have to be spread out first.

        Example:
            >>> IndexPattern(8, 3).reversed()
            IndexPattern(6, 3, padding=2)
        """
        if self.stride != 1 and self.output_size > 1:
            return None
        left = self.dilation * (self.kernel_size - 1) - self.left
        return pattern_of_shape(
            self.kernel_size, self.input_size, self.output_size, stride=1, left=left, dilation=self.dilation
        )

    def narrow(self, axis: Axis, start: int, length: int, step: int = 1) -> IndexPattern:
        """The pattern of a range of an axis.

        Args:
            axis: the axis.
            start: the first position kept.
            length: the number of positions kept, at least 1.
            step: positions between those kept; 1 for inputs, of which :meth:`subsampled` leaves some out.

        Raises:
            OperandError: the range isn't within the axis, or inputs are left out between those kept.

        Example:
            >>> IndexPattern(8, 3, padding=1).narrow("kernel", 1, 1)
            IndexPattern(8, 1)
            >>> IndexPattern(8, 3).narrow("output", 0, 3, step=2)
            IndexPattern(8, 3, stride=2)
        """
        size = dict(zip(_AXES, self.shape, strict=True))
        last = start + (length - 1) * step
        if length < 1 or start < 0 or step < 1 or last >= size[axis]:
            raise OperandError(
                f"{self!r} has no range of {length} from {start} in steps of {step} among {size[axis]} of "
                f"{axis}"
            )
        if axis == "input" and step > 1:
            raise OperandError(f"{self!r} can't leave out inputs between those it keeps; see subsampled()")
        moved = {"kernel": -self.dilation * start, "output": -self.stride * start, "input": start}[axis]
        size[axis] = length
        return pattern_of_shape(
            size["kernel"],
            size["output"],
            size["input"],
            stride=self.stride * (step if axis == "output" else 1),
            left=self.left + moved,
            dilation=self.dilation * (step if axis == "kernel" else 1),
        )

    def subsampled(self) -> tuple[int, int, IndexPattern]:
        """Only every n-th input is read, where n divides stride and dilation: the pattern over those alone.

        Returns:
            ``(start, step, pattern)``: the tensor is ``pattern.tensor()`` at inputs ``start::step`` and 0
            elsewhere; step is 1 where nothing is skipped.

        Example:
            >>> IndexPattern(9, 3, dilation=2, stride=4, padding=1).subsampled()
            (1, 2, IndexPattern(4, 3, stride=2, padding=1))
        """
        plain = self.canonical
        step = plain.stride if plain.kernel_size == 1 else plain.dilation if plain.output_size == 1 else 0
        step = step or gcd(plain.stride, plain.dilation)
        start = -self.left % step
        if step == 1 or start >= self.input_size:
            return 0, 1, self
        pattern = pattern_of_shape(
            self.kernel_size,
            self.output_size,
            (self.input_size - start - 1) // step + 1,
            stride=max(plain.stride // step, 1),
            left=(self.left + start) // step,
            dilation=max(plain.dilation // step, 1),
        )
        return start, step, pattern


def pattern_of_shape(
    kernel: int, output: int, inputs: int, *, stride: int, left: int, dilation: int
) -> IndexPattern:
    """The pattern of a shape, with a right padding as plain as possible.

    Args:
        kernel: the number of kernel positions.
        output: the number of outputs.
        inputs: the number of inputs.
        stride: inputs between neighbouring outputs; 1 is taken where there is one output.
        left: the padding on the left.
        dilation: inputs between neighbouring kernel positions; 1 is taken where there is one.
    """
    stride = 1 if output == 1 else stride
    dilation = 1 if kernel == 1 else dilation
    least = stride * (output - 1) + dilation * (kernel - 1) + 1 - inputs - left
    for right in (left, 0):
        if least <= right < least + stride:
            return IndexPattern(inputs, kernel, stride, (left, right), dilation)
    return IndexPattern(inputs, kernel, stride, (left, least), dilation)


def _shown(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] and pair[0] >= 0 else str(pair)
