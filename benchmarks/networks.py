"""Contraction paths of larger networks: multiplications and planning time beside opt_einsum and cotengra."""

import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import networkx
import opt_einsum

__all__ = ["Network", "PathQuality", "hyper", "multiplications", "regular", "run", "section"]

OPERANDS = (5, 8, 10, 15, 20, 40, 60, 80)
SEEDS = 4
LEAST_SECONDS = 0.05
"""Planning may always take this long; beyond, no longer than auto-hq."""

MOST_MULTIPLICATIONS = 1.1
"""How many times the multiplications of the best path that anyone finds count as met."""

MOST_OPERANDS_OF_DP = 14
"""opt_einsum's dp doesn't come back in time from larger networks with hyperedges."""

HYPER_SECONDS = 4.0
"""What cotengra's hyper-optimizer may take: it is there to say how good a path there is."""

OURS = ("einfx", "einfx multiplications")

Inputs = list[tuple[str, ...]]
Path = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Network:
    """A network of tensors.

    Attributes:
        inputs: the labels of each tensor.
        output: the labels of the result.
        sizes: of each label.
    """

    inputs: Inputs
    output: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def equation(self) -> str:
        """As text."""
        return ",".join(map("".join, self.inputs)) + "->" + "".join(self.output)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors."""
        return [tuple(self.sizes[x] for x in part) for part in self.inputs]


@dataclass
class PathQuality:
    """What every contestant found for the networks of one kind and number of operands.

    Attributes:
        kind: of the networks.
        operands: number of tensors in each.
        multiplications: of each contestant's path, one a network, as multiples of the best peer's.
        seconds: planning times, one a network.
        predicted: of einfx's path, what its time is predicted to be, as a multiple of the prediction for its
            path of fewest multiplications.
    """

    kind: str
    operands: int
    multiplications: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    predicted: list[float] = field(default_factory=list)

    def over_limit(self, name: str) -> float:
        """The median of planning time over the larger of 50 ms and auto-hq's on the same network."""
        pairs = zip(self.seconds[name], self.seconds["auto-hq"], strict=True)
        return statistics.median(own / max(LEAST_SECONDS, theirs) for own, theirs in pairs)

    def misses_target(self) -> bool:
        """Whether the search for few multiplications found too many on one network, or was too slow."""
        name = "einfx multiplications"
        return max(self.multiplications[name]) > MOST_MULTIPLICATIONS or self.over_limit(name) > 1.0


def regular(operands: int, seed: int) -> Network:
    """A random regular graph of degree 3 (4 where there is none) with bonds of 2 to 8, and no open legs."""
    graph = networkx.random_regular_graph(3 if operands % 2 == 0 else 4, operands, seed=seed)
    generator = random.Random(seed)
    inputs: list[list[str]] = [[] for _ in range(operands)]
    sizes = {}
    for number, (a, b) in enumerate(sorted(tuple(sorted(edge)) for edge in graph.edges)):
        label = opt_einsum.get_symbol(number)
        sizes[label] = generator.randint(2, 8)
        inputs[a].append(label)
        inputs[b].append(label)
    return Network([tuple(part) for part in inputs], (), sizes)


def hyper(operands: int, seed: int) -> Network:
    """A random equation of cotengra's: some labels on up to all tensors, one of them in the output."""
    from cotengra.utils import rand_equation

    made = rand_equation(
        operands,
        3,
        n_out=2,
        n_hyper_in=max(1, operands // 10),
        n_hyper_out=1,
        d_min=2,
        d_max=8 if operands <= 40 else 4,
        seed=seed,
    )
    return Network([tuple(part) for part in made.inputs], tuple(made.output), dict(made.size_dict))


KINDS: dict[str, Callable[[int, int], Network]] = {"regular": regular, "hyper": hyper}


def multiplications(network: Network, path: Path) -> int:
    """Of a path by positions in a list that shrinks: the product of all sizes of the labels of each step.

    Labels that one operand alone has are summed before, which takes none. A step of more than two operands
    goes from left to right.
    """
    alive = [set(part) for part in network.inputs]
    total = 0
    for step in path:
        taken = [alive.pop(position) for position in sorted(step, reverse=True)][::-1]
        made = taken[0]
        for number, other in enumerate(taken[1:], 2):
            rest = set(network.output).union(*alive, *taken[number:])
            labels = {x for x in made | other if x in rest or (x in made and x in other)}
            total += math.prod(network.sizes[x] for x in labels)
            made = labels & rest
        alive.append(made)
    return total


def run(
    operands: Sequence[int] = OPERANDS,
    seeds: int = SEEDS,
    hyper_seconds: float = HYPER_SECONDS,
    progress: Callable[[str], None] = print,
) -> list[PathQuality]:
    """Plan every network once with every contestant."""
    results = []
    _plan_ours(regular(5, 1000), "auto")  # what the first call of all loads is no part of planning
    for kind, make in KINDS.items():
        for count in operands:
            quality = PathQuality(kind, count)
            for seed in range(seeds):
                _measure(quality, make(count, seed), hyper_seconds)
            results.append(quality)
            progress(f"{kind} {count}: {_summary(quality)}")
    return results


def _measure(quality: PathQuality, network: Network, hyper_seconds: float) -> None:
    found: dict[str, int] = {}
    predicted: dict[str, float] = {}
    for name, planner in _contestants(network, hyper_seconds):
        start = time.perf_counter()
        path, seconds = planner()
        quality.seconds.setdefault(name, []).append(time.perf_counter() - start)
        found[name] = multiplications(network, path)
        predicted[name] = seconds
    best = min(count for name, count in found.items() if name not in OURS)
    for name, count in found.items():
        quality.multiplications.setdefault(name, []).append(count / best)
    quality.predicted.append(predicted[OURS[0]] / predicted[OURS[1]])


def _contestants(
    network: Network, hyper_seconds: float
) -> Iterable[tuple[str, Callable[[], tuple[Path, float]]]]:
    import cotengra

    def peer(strategy: str) -> Callable[[], tuple[Path, float]]:
        def plan() -> tuple[Path, float]:
            found, _ = opt_einsum.contract_path(
                network.equation, *network.shapes, shapes=True, optimize=strategy
            )
            return found, math.nan

        return plan

    def asked(optimizer: Callable[..., Path]) -> Callable[[], tuple[Path, float]]:
        def plan() -> tuple[Path, float]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # which of its optional packages would speed it up
                return optimizer(network.inputs, network.output, network.sizes), math.nan

        return plan

    yield OURS[0], lambda: _plan_ours(network, "auto")
    yield OURS[1], lambda: _plan_ours(network, "multiplications")
    yield "greedy", peer("greedy")
    if len(network.inputs) <= MOST_OPERANDS_OF_DP:
        yield "dp", peer("dp")
    yield "auto", peer("auto")
    yield "auto-hq", peer("auto-hq")
    yield "cotengra auto", asked(cotengra.AutoOptimizer(cache=False))
    yield (
        "cotengra hyper",
        asked(
            cotengra.HyperOptimizer(
                max_time=hyper_seconds, max_repeats=1000, minimize="flops", reconf_opts={}, parallel=False
            )
        ),
    )


def _plan_ours(network: Network, optimize: str) -> tuple[Path, float]:
    from einfx.equation import Equation
    from einfx.planning import plan

    number = {label: i for i, label in enumerate(network.sizes)}
    inputs = tuple(tuple(number[x] for x in part) for part in network.inputs)
    found = plan(
        Equation(inputs, tuple(number[x] for x in network.output)), network.shapes, optimize=optimize
    )
    return found.path, found.seconds


def _summary(quality: PathQuality) -> str:
    return ", ".join(
        f"{name} {_mean(counts):.2f} in {statistics.median(quality.seconds[name]) * 1e3:.0f} ms"
        for name, counts in quality.multiplications.items()
    )


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def section(qualities: Sequence[PathQuality]) -> str:
    """The section of the results file about paths of larger networks."""
    from .results import table

    names = list(dict.fromkeys(name for quality in qualities for name in quality.multiplications))
    header = ["network", *names, "of the limit", "predicted", "target"]
    rows = []
    for quality in qualities:
        cells = [f"{quality.kind}, {quality.operands}"]
        for name in names:
            counts = quality.multiplications.get(name)
            if counts is None:
                cells.append("")
            else:
                cells.append(f"{_mean(counts):.3g} ({statistics.median(quality.seconds[name]) * 1e3:.0f} ms)")
        limits = " / ".join(f"{quality.over_limit(name):.2f}" for name in OURS)
        cells += [limits, f"{_mean(quality.predicted):.2f}", "missed" if quality.misses_target() else "met"]
        rows.append(cells)
    return (
        f"{SEEDS} random networks each. Multiplications (geometric mean) as multiples of those of the best\n"
        "path that any other contestant finds, planning time (median). Limit: planning time of einfx, and\n"
        "of its search for multiplications, over the larger of 50 ms and auto-hq's. Predicted: the time of\n"
        "einfx's path as a multiple of that of its path of fewest multiplications. Target, for\n"
        '`optimize="multiplications"`: '
        f"at most {MOST_MULTIPLICATIONS} times the best on every network, within the limit.\n\n"
        f"{table(header, rows)}"
    )
