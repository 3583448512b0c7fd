"""A function that autograd knows, of one that computes a contraction and one that computes its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["combine"]


def combine(
    forward: Callable[..., Any],
    backward: Callable[..., Sequence[Tensor | None]],
    forward_options: Sequence[str] = (),
    backward_options: Sequence[str] = (),
) -> Callable[..., Any]:
    """Make a differentiable function of a contraction and its derivative.

    Args:
        forward: called as ``forward(equation, *args, block_size=..., ...)``.
        backward: called as ``backward(equation, args, needs_grad, grad, block_size=..., ...)`` with the
            operands, whether each needs a gradient, and the gradient of the output; it returns the gradient
            of each operand, or None.
        forward_options: keywords of the function that go to ``forward``.
        backward_options: keywords that go to ``backward``.

    Returns:
        A function of an equation, operands, ``block_size`` and those keywords.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import (
        ...     compile_equation, real_einsum_backward, real_einsum_forward)
        >>> einsum = combine(real_einsum_forward, real_einsum_backward)
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> einsum(compile_equation("i,i->"), x, torch.tensor([3.0, 4.0]), block_size=1).backward()
        >>> x.grad
        tensor([3., 4.])
    """

    class Combined(torch.autograd.Function):
        @staticmethod
        def forward(equation: Any, own: dict[str, Any], derivative: dict[str, Any], *args: Tensor) -> Any:
            return forward(equation, *args, **own)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.equation, _, ctx.derivative, *args = inputs
            ctx.save_for_backward(*args)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            needs_grad = ctx.needs_input_grad[3:]
            grad = grads[0] if len(grads) == 1 else grads
            result = backward(ctx.equation, ctx.saved_tensors, needs_grad, grad, **ctx.derivative)
            return (None, None, None, *result)

    def combined(equation: Any, *args: Tensor, block_size: Any, **options: Any) -> Any:
        for name in options:
            if name not in forward_options and name not in backward_options:
                raise TypeError(f"unexpected keyword argument {name!r}")
        own = {name: value for name, value in options.items() if name in forward_options}
        derivative = {name: value for name, value in options.items() if name in backward_options}
        own["block_size"] = derivative["block_size"] = block_size
        return Combined.apply(equation, own, derivative, *args)  # type: ignore[no-untyped-call]

    return combined
