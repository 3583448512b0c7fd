"""Every way in which torch and einfx spell a convolution, an unfolding or an average.

:func:`read` gives the contraction with index patterns that a call computes. What has no such contraction (an
average that doesn't count its padding, an output that the caller allocates) is said to have none, never
misread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ...errors import EinfxError
from ...graphs.folding import attribute
from ...graphs.nodes import value_of
from ...padding import paddings
from ..functional import foldNd, unfoldNd
from ..native import conv_transposeNd, convNd
from ..parameters import per_dimension, per_dimension_padding
from .readings import Reading, Window, averaged, convolution, folded, pooled, transposed, unfolded

__all__ = ["is_plain", "native_call", "read"]

Arguments = dict[str, Any]


def read(node: fx.Node, owner: nn.Module | None = None) -> Reading | str | None:
    """The contraction that ``node`` computes, if it is a convolution, an unfolding or an average.

    Args:
        node: a node of a graph in which shapes were propagated.
        owner: the module whose submodules and attributes the graph names.

    Returns:
        A reading; or the reason why the call has none; or None where the node is nothing of that kind.

    Example:
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x, w: F.conv2d(x, w, padding=1))
        >>> propagate(traced, (torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3)))
        []
        >>> reading = read(list(traced.graph.nodes)[2])
        >>> str(reading.equation), reading.windows[0].padding
        ('abcd,efc,ghd,ibeg->aifh', (1, 1))
    """
    if node.op == "call_module":
        return None if owner is None else _read_module(node, owner)
    found = _METHODS.get(str(node.target)) if node.op == "call_method" else _function(node)
    if found is None:
        return None
    dimensions, parameters, reader = found
    arguments = _bound(node.args, node.kwargs, parameters)
    if arguments is None:
        return "it has arguments that say more than a convolution does"
    return _checked(reader, arguments, dimensions, owner)


def _function(node: fx.Node) -> _Spelling | None:
    if node.op != "call_function":
        return None
    try:
        return _FUNCTIONS.get(node.target)
    except TypeError:  # a callable that has no hash
        return None


def _checked(
    reader: _Reader, arguments: Arguments, dimensions: int, owner: nn.Module | None
) -> Reading | str:
    if not isinstance(arguments.get("input"), fx.Node):
        return "what it slides over is no value of the graph"
    tensors = ("input", "weight", "bias")
    if any(_holds_nodes(argument) for name, argument in arguments.items() if name not in tensors):
        return "its hyper-parameters are computed by the program"
    if value_of(arguments["input"]) is None:
        return "the shape of what it slides over isn't known"
    try:
        return reader(arguments, dimensions, owner)
    except (EinfxError, TypeError, ValueError):
        return "its hyper-parameters don't fit one another"


def _holds_nodes(argument: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(argument, lambda x: found.append(x))
    return bool(found)


def _bound(args: Sequence[Any], kwargs: dict[str, Any], parameters: Sequence[str]) -> Arguments | None:
    """Arguments by the names of their parameters; None where there are others."""
    if len(args) > len(parameters):
        return None
    bound = dict(zip(parameters, args, strict=False))
    for key, argument in kwargs.items():
        name = {"self": "input", "x": "input"}.get(key, key)
        if name in bound or name not in parameters:
            if name in ("out", "dtype") and argument is None:
                continue
            return None
        bound[name] = argument
    return bound


def _read_module(node: fx.Node, owner: nn.Module) -> Reading | str | None:
    try:
        module = attribute(owner, str(node.target))
    except AttributeError:
        return None
    found = _MODULES.get(type(module))
    if found is None:
        return None
    if not is_plain(module):
        return "its module has hooks, or a method of its own"
    if len(node.args) != 1 or node.kwargs:
        return "it has arguments beside its input"
    dimensions, names, reader = found
    arguments = {name: getattr(module, name) for name in names if hasattr(module, name)}
    arguments["input"] = node.args[0]
    boundary = None
    if isinstance(module, nn.modules.conv._ConvNd):
        if not isinstance(module._parameters.get("weight"), torch.Tensor):
            return "its weight is no parameter"
        arguments["weight"] = f"{node.target}.weight"
        arguments["bias"] = None if module._parameters.get("bias") is None else f"{node.target}.bias"
        if module.padding_mode != "zeros":
            boundary = (tuple(module._reversed_padding_repeated_twice), module.padding_mode)
            arguments["padding"] = 0
    reading = _checked(reader, arguments, dimensions, owner)
    if boundary is None or not isinstance(reading, Reading):
        return reading
    return replace(reading, boundary=boundary)


def native_call(module: nn.modules.conv._ConvNd) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function that a module of torch calls, and its arguments behind input, weight and bias.

    Example:
        >>> function, numbers = native_call(nn.Conv1d(3, 4, 5, padding=2, padding_mode="reflect"))
        >>> function is F.conv1d, numbers  # what reflects is added before
        (True, ((1,), 0, (1,), 1))
    """
    n = len(module.kernel_size)
    padding = module.padding if module.padding_mode == "zeros" else 0
    if module.transposed:
        numbers = module.stride, padding, module.output_padding, module.groups, module.dilation
        return getattr(F, f"conv_transpose{n}d"), numbers
    return getattr(F, f"conv{n}d"), (module.stride, padding, module.dilation, module.groups)


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module calls the forward method of its class, and nothing beside."""
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return not any(getattr(module, name, None) for name in hooks) and "forward" not in module.__dict__


def _shape(source: Any, owner: nn.Module | None) -> tuple[int, ...]:
    """The shape of a tensor of the graph, or of an attribute of the module that owns it."""
    if isinstance(source, str):
        return tuple(attribute(owner, source).shape) if owner is not None else ()
    value = value_of(source)
    if value is None:
        raise ValueError("the shape isn't known")
    return value.shape


def _is_state(source: Any) -> bool:
    """Whether a tensor has the same shape in every call."""
    return isinstance(source, str) or (isinstance(source, fx.Node) and source.op == "get_attr")


def _batched(arguments: Arguments, dimensions: int) -> bool:
    rank = len(_shape(arguments["input"], None))
    if rank not in (dimensions + 1, dimensions + 2):
        raise ValueError("no such rank")
    return rank == dimensions + 2


def _windows(arguments: Arguments, kernel: Sequence[int], batched: bool, **more: Any) -> list[Window]:
    """One window for each dimension; ``more`` has a sequence of further numbers for each field."""
    n = len(kernel)
    strides = per_dimension("stride", _or_one(arguments.get("stride")), n)
    dilations = per_dimension("dilation", _or_one(arguments.get("dilation")), n)
    sides = per_dimension_padding(arguments.get("padding", 0), n)
    return [
        Window(
            1 + int(batched) + i,
            kernel[i],
            strides[i],
            paddings(kernel[i], strides[i], sides[i], dilations[i]),
            dilations[i],
            **{name: numbers[i] for name, numbers in more.items()},
        )
        for i in range(n)
    ]


def _or_one(value: Any) -> Any:
    return 1 if value is None else value


def _read_convolution(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    weight, bias, groups = arguments["weight"], arguments.get("bias"), arguments.get("groups", 1)
    is_transposed = bool(arguments.get("transposed", False))
    shape = _shape(weight, owner)
    n = len(shape) - 2
    if dimensions not in (0, n) or n < 1:
        return "its weight has another rank than its kind of convolution"
    if not _is_state(weight) and isinstance(arguments.get("padding"), str):
        return "its padding follows from the size of a kernel that may change from call to call"
    batched = _batched(arguments, n)
    # A kernel whose shape may change from call to call is taken for one channel a group only by state.
    single = _is_state(weight) and shape[1] == 1 and groups > 1
    channels = _shape(arguments["input"], owner)[int(batched)]
    depthwise = single and shape[0] == groups == channels
    extra: dict[str, Any] = {}
    if is_transposed:
        extra["extra"] = per_dimension("output_padding", arguments.get("output_padding", 0), n)
    windows = _windows(arguments, shape[2:], batched, **extra)
    make = transposed if is_transposed else convolution
    return make(
        arguments["input"], weight, bias, windows, batched=batched, groups=groups, depthwise=depthwise
    )


def _read_transposed(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    return _read_convolution({**arguments, "transposed": True}, dimensions, owner)


def _read_unfold(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    if arguments.get("reduce") is not None:
        return "it is computed without building what it unfolds already"
    kernel = arguments["kernel_size"]
    if dimensions == 0:
        rank = len(_shape(arguments["input"], owner))
        dimensions = len(kernel) if isinstance(kernel, list | tuple) else rank - 2
    batched = _batched(arguments, dimensions)
    windows = _windows(arguments, per_dimension("kernel_size", kernel, dimensions), batched)
    return unfolded(arguments["input"], windows, batched=batched)


def _read_fold(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    size, kernel = arguments["output_size"], arguments["kernel_size"]
    lengths = [len(value) for value in (size, kernel) if isinstance(value, list | tuple)]
    n = dimensions or (lengths[0] if lengths else 2)
    rank = len(_shape(arguments["input"], owner))
    sizes = per_dimension("output_size", size, n)
    made = _windows(arguments, per_dimension("kernel_size", kernel, n), rank == 3, input_size=sizes)
    # Behind its steps the data has its channels, the elements of the kernel, then the positions.
    numbered = [replace(window, dim=rank - 1 + n + i) for i, window in enumerate(made)]
    return folded(arguments["input"], numbered, batched=rank == 3)


def _read_pool(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    batched = _batched(arguments, dimensions)
    kernel = per_dimension("kernel_size", arguments["kernel_size"], dimensions)
    stride = arguments.get("stride")
    strides = kernel if stride is None or stride in ([], ()) else stride
    windows = _windows({**arguments, "stride": strides}, kernel, batched)
    if arguments.get("ceil_mode", False):
        return "with ceil_mode its last windows are divided by other numbers than the rest"
    padded = any(side for window in windows for side in window.padding)
    divisor = arguments.get("divisor_override")
    if padded and divisor is None and not arguments.get("count_include_pad", True):
        return "without count_include_pad its windows are divided by different numbers"
    return pooled(
        arguments["input"], windows, batched=batched, divisor=prod(kernel) if divisor is None else divisor
    )


def _read_adaptive(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    size = arguments["output_size"]
    if any(x != 1 for x in (size if isinstance(size, list | tuple) else [size])):
        return "its windows have different sizes"
    rank = len(_shape(arguments["input"], owner))
    _batched(arguments, dimensions)
    return averaged(arguments["input"], rank, range(rank - dimensions, rank), keepdim=True)


def _read_mean(arguments: Arguments, dimensions: int, owner: nn.Module | None) -> Reading | str:
    dims = arguments.get("dim")
    rank = len(_shape(arguments["input"], owner))
    if dims is None or not rank:
        return "it is the mean of all elements"
    given = [dims] if isinstance(dims, int) else list(dims)
    if not all(isinstance(dim, int) and -rank <= dim < rank for dim in given) or not given:
        return "its dimensions aren't known"
    return averaged(
        arguments["input"], rank, [dim % rank for dim in given], keepdim=bool(arguments.get("keepdim", False))
    )


_Reader = Callable[[Arguments, int, nn.Module | None], Reading | str]
_Spelling = tuple[int, tuple[str, ...], _Reader]

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ANY = (
    "input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"
)  # fmt: skip
_POOL = (
    "input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
)  # fmt: skip
_UNFOLD = ("input", "kernel_size", "dilation", "padding", "stride")
_FOLD = ("input", "output_size", "kernel_size", "dilation", "padding", "stride")
_ADAPTIVE = ("input", "output_size")
_MEAN = ("input", "dim", "keepdim")


@lru_cache(maxsize=1)
def _operators() -> dict[Any, _Spelling]:
    """The operators of torch.export and of make_fx."""
    aten = torch.ops.aten
    found: dict[Any, _Spelling] = {
        aten.convolution.default: (0, _ANY, _read_convolution),
        aten.im2col.default: (2, _UNFOLD, _read_unfold),
        aten.col2im.default: (2, _FOLD, _read_fold),
        aten.mean.dim: (0, _MEAN, _read_mean),
        aten.avg_pool1d.default: (1, _POOL, _read_pool),
    }
    for n in (1, 2, 3):
        conv = getattr(aten, f"conv{n}d")
        back = getattr(aten, f"conv_transpose{n}d")
        found[conv.default] = found[conv.padding] = (n, _CONV, _read_convolution)
        found[back.default if n == 1 else back.input] = (n, _TRANSPOSED, _read_transposed)
        found[getattr(aten, f"adaptive_avg_pool{n}d").default] = (n, _ADAPTIVE, _read_adaptive)
        if n > 1:
            found[getattr(aten, f"avg_pool{n}d").default] = (n, _POOL, _read_pool)
    return found


_FUNCTIONS: dict[Any, _Spelling] = {
    torch.convolution: (0, _ANY, _read_convolution),
    convNd: (0, _CONV, _read_convolution),
    conv_transposeNd: (0, _TRANSPOSED, _read_transposed),
    unfoldNd: (0, (*_UNFOLD, "groups", "reduce"), _read_unfold),
    foldNd: (0, _FOLD, _read_fold),
    F.unfold: (2, _UNFOLD, _read_unfold),
    F.fold: (2, _FOLD, _read_fold),
    torch.mean: (0, _MEAN, _read_mean),
    **{
        getattr(F, f"{name}{n}d"): (n, parameters, reader)
        for n in (1, 2, 3)
        for name, parameters, reader in (
            ("conv", _CONV, _read_convolution),
            ("conv_transpose", _TRANSPOSED, _read_transposed),
            ("avg_pool", _POOL, _read_pool),
            ("adaptive_avg_pool", _ADAPTIVE, _read_adaptive),
        )
    },
    **_operators(),
}

_METHODS: dict[str, _Spelling] = {"mean": (0, _MEAN, _read_mean)}

_MODULES: dict[type[nn.Module], _Spelling] = {
    nn.Unfold: (2, _UNFOLD, _read_unfold),
    nn.Fold: (2, _FOLD, _read_fold),
    **{
        getattr(nn, f"{name}{n}d"): (n, parameters, reader)
        for n in (1, 2, 3)
        for name, parameters, reader in (
            ("Conv", _CONV, _read_convolution),
            ("ConvTranspose", _TRANSPOSED, _read_transposed),
            ("AvgPool", _POOL, _read_pool),
            ("AdaptiveAvgPool", _ADAPTIVE, _read_adaptive),
        )
    },
}
