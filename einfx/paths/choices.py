"""Contraction paths: those worth a closer look, and those that a caller's choice stands for.

Paths are lists of tuples of value numbers: operands are 0 to n-1, step i gives value n+i.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import opt_einsum
import torch

from ..equation import Equation, label_text
from ..errors import PlanError
from ..options import REAL, Options
from .network import MAX_ENUMERATED, WORTH_A_LOOK, Network

__all__ = [
    "WORTH_A_LOOK",
    "fewest_multiplications",
    "find_paths",
    "hashable",
    "paths_from",
    "refuse_unusable",
]

Shapes = Sequence[Sequence[int]]
Path = list[tuple[int, ...]]

CHOICES = (
    "choose 'auto' (the least predicted time), 'multiplications' (the fewest), 'cotengra', a strategy of "
    "opt_einsum ('greedy', 'dp', 'optimal', 'auto-hq', ...) or of cotengra ('hyper', ...), or give a path "
    "such as [(0, 1), (0, 1)], a plan, an opt_einsum PathOptimizer, or a cotengra optimizer or tree"
)
"""What ``optimize`` may be, for errors."""


def hashable(optimize: Any) -> Any:
    """What was given as ``optimize``, by which plans can be remembered: lists become tuples.

    Args:
        optimize: anything; what is no path stays as it is and is refused where it is read.

    Example:
        >>> hashable([[0, 1], (0, 1)]), hashable("auto"), hashable([3])
        (((0, 1), (0, 1)), 'auto', (3,))
    """
    if not isinstance(optimize, (list, tuple)):
        return optimize
    return tuple([tuple(x) if isinstance(x, Iterable) else x for x in optimize])


def refuse_unusable(optimize: Any) -> None:
    """Refuse what no path can be got from.

    Raises:
        PlanError: it's neither a strategy nor a path, nor anything that finds or has one.

    Example:
        >>> refuse_unusable("auto")
        >>> refuse_unusable({0: 1})
        Traceback (most recent call last):
        einfx.errors.PlanError: optimize={0: 1} can't be used; choose 'auto' ...
    """
    if isinstance(optimize, str):
        if optimize not in ("auto", "multiplications", "cotengra"):
            _finder(optimize)
        return
    if isinstance(optimize, type):
        raise PlanError(f"optimize={optimize.__name__} is a class; give one of its instances, or {CHOICES}")
    if isinstance(optimize, (tuple, list)) or callable(optimize):
        return
    if not (hasattr(optimize, "path") or hasattr(optimize, "get_path")):
        raise PlanError(f"optimize={optimize!r} can't be used; {CHOICES}")


def find_paths(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    constants: Sequence[int] = (),
    options: Options = REAL,
    several: bool = False,
) -> list[Path]:
    """The paths worth a closer look; of many operands one, or several."""
    scalars, others = _scalars(shapes)
    network = Network(equation, shapes, others, dtype, device, options)
    if len(others) <= 1:
        paths: list[Path] = [[]]
    elif len(others) <= MAX_ENUMERATED:
        paths = network.every(constants)
    else:
        paths = network.promising(constants, several)
    return [_with_scalars(equation, shapes, scalars, others, path) for path in paths]


def fewest_multiplications(equation: Equation, shapes: Shapes) -> Path:
    """The path of fewest multiplications among those looked at: among all, up to eight operands."""
    scalars, others = _scalars(shapes)
    network = Network(equation, shapes, others, torch.float32, "cpu")
    path = network.fewest_multiplications() if len(others) > 1 else []
    return _with_scalars(equation, shapes, scalars, others, path)


def _scalars(shapes: Shapes) -> tuple[list[int], list[int]]:
    """The operands without dimensions, and the others."""
    everyone = range(len(shapes))
    return [i for i in everyone if not len(shapes[i])], [i for i in everyone if len(shapes[i])]


def _ask(equation: Equation, shapes: Shapes, members: Sequence[int], strategy: Any) -> Path:
    """opt_einsum's path for some of the operands, by single-assignment numbers of these."""
    sizes = equation.sizes(shapes)
    inputs = [frozenset(equation.inputs[i]) for i in members]
    names = {x: label_text((x,)) for x in sizes}
    sets = [frozenset(names[x] for x in part) for part in inputs]
    output = frozenset(names[x] for x in equation.output)
    finder = _finder(strategy) if isinstance(strategy, str) else strategy
    state = random.getstate()  # opt_einsum's random strategies seed the global generator
    try:
        # Its exhaustive strategies find nothing where a size is 0.
        linear = finder(list(sets), output, {names[x]: max(n, 1) for x, n in sizes.items()})
    finally:
        random.setstate(state)
    return linear_to_ssa(linear, len(members))


def _finder(strategy: str) -> Any:
    """What finds paths by a strategy of opt_einsum's, or by one that cotengra registers there."""
    try:
        return opt_einsum.paths.get_path_fn(strategy)
    except KeyError:
        pass
    installed = True
    try:
        import cotengra  # noqa: F401 (registers its strategies)
    except ImportError:
        installed = False
    try:
        return opt_einsum.paths.get_path_fn(strategy)
    except KeyError as error:
        hint = "" if installed else "; those of cotengra take pip install 'einfx[planner]'"
        raise PlanError(f"optimize={strategy!r} isn't a strategy; {CHOICES}{hint}") from error


def _cotengra() -> Any:
    """The optimizer that cotengra chooses itself; nothing is kept from call to call."""
    try:
        import cotengra
    except ImportError as error:
        raise PlanError(
            "optimize='cotengra' takes the package cotengra: pip install 'einfx[planner]', or leave "
            "optimize='auto', which searches as well"
        ) from error
    # Its workers would be forked from a process with torch's threads, which can hang, and outlive it.
    return cotengra.AutoOptimizer(minimize="flops", cache=False, parallel=False)


def linear_to_ssa(path: Sequence[Sequence[int]], count: int) -> Path:
    """From positions in a list that shrinks to numbers of values."""
    if not isinstance(path, Sequence) or isinstance(path, str):
        raise PlanError(f"a path is a list of steps such as [(0, 1), (0, 1)], not {path!r}")
    alive = list(range(count))
    result: Path = []
    for i, step in enumerate(path):
        if not isinstance(step, Sequence) or not all(isinstance(x, Integral) for x in step):
            raise PlanError(f"step {i} of path {list(path)} is {step!r}, not positions such as (0, 1)")
        positions = sorted(set(step))
        if not positions or len(positions) != len(step) or positions[-1] >= len(alive) or positions[0] < 0:
            raise PlanError(f"step {i} of path {list(path)} takes operand(s) {tuple(step)} of {len(alive)}")
        result.append(tuple(alive[p] for p in positions))
        for position in reversed(positions):
            del alive[position]
        alive.append(count + i)
    if len(alive) != 1:
        raise PlanError(f"the path {list(path)} leaves {len(alive)} of {count} operands uncontracted")
    return result


def paths_from(equation: Equation, shapes: Shapes, optimize: Any, widest: int = 2) -> list[Path]:
    """The paths which a caller's choice stands for, in steps of at most ``widest`` operands."""
    count = len(shapes)
    everyone = range(count)
    if isinstance(optimize, str) and optimize == "multiplications":
        return [fewest_multiplications(equation, shapes)]
    if isinstance(optimize, str) and optimize == "cotengra":
        optimize = _cotengra()
    if isinstance(optimize, type):
        refuse_unusable(optimize)
    if hasattr(optimize, "get_path"):
        path = linear_to_ssa(optimize.get_path(), count)
    elif not callable(optimize) and hasattr(optimize, "path"):
        path = linear_to_ssa(optimize.path, count)
    elif isinstance(optimize, (tuple, list)):
        path = linear_to_ssa(optimize, count)
    else:
        refuse_unusable(optimize)
        path = _ask(equation, shapes, everyone, optimize)
    return [_pairwise(path, count, widest)]


def _pairwise(path: Path, count: int, widest: int = 2) -> Path:
    """The same path with steps of at most two operands; those of up to ``widest`` stay."""
    result: Path = []
    number = dict(zip(range(count), range(count), strict=True))
    for i, step in enumerate(path):
        chosen = [number[x] for x in step]
        while len(chosen) > widest:
            result.append((chosen[0], chosen[1]))
            chosen = [count + len(result) - 1, *chosen[2:]]
        if len(chosen) == 1 and count > 1:
            number[count + i] = chosen[0]
            continue
        result.append(tuple(chosen))
        number[count + i] = count + len(result) - 1
    return result


def _with_scalars(
    equation: Equation, shapes: Shapes, scalars: Sequence[int], others: Sequence[int], path: Path
) -> Path:
    """The path with the 0-dimensional operands multiplied onto the smallest tensor that it makes or reads."""
    if not others:
        return _pairwise([tuple(range(len(scalars)))], len(scalars))
    count = len(shapes)
    sizes = equation.sizes(shapes)
    result: Path = []
    factor = None
    for x in scalars:
        if factor is None:
            factor = x
        else:
            result.append((factor, x))
            factor = count + len(result) - 1
    if factor is None:
        return path
    # A dimension of size 1 is none, and what an operand alone has is summed before it is multiplied.
    labels = {
        i: tuple(label for label, n in zip(equation.inputs[x], shapes[x], strict=True) if n != 1)
        for i, x in enumerate(others)
    }
    holders = Counter(label for part in labels.values() for label in set(part))
    elements = {
        i: math.prod(sizes[label] for label in set(part) if holders[label] > 1 or label in equation.output)
        for i, part in labels.items()
    }
    for i, step in enumerate(path):
        parts = [labels.pop(x) for x in step]
        needed = set(equation.output).union(*labels.values())
        left = tuple(x for x in dict.fromkeys(x for part in parts for x in part) if x in needed)
        labels[len(others) + i] = left
        elements[len(others) + i] = math.prod(sizes[x] for x in left)
    smallest = min(elements, key=lambda x: (elements[x], x))
    number = dict(enumerate(others))

    def scale(x: int) -> None:
        if x == smallest:
            result.append((factor, number[x]))
            number[x] = count + len(result) - 1

    for x in range(len(others)):
        scale(x)
    for i, step in enumerate(path):
        result.append(tuple(number[x] for x in step))
        number[len(others) + i] = count + len(result) - 1
        scale(len(others) + i)
    return result
