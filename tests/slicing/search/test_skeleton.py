"""A skeleton tells what the schedule with the same blocks takes."""

from __future__ import annotations

import pytest
import torch

from einfx.options import Options
from einfx.slicing.running.memory import demand
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.tree import schedule
from einfx.slicing.search.events import Works
from einfx.slicing.search.skeleton import Skeleton
from tests.slicing.networks import network


@pytest.mark.parametrize("name", ["real", "log"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("seed", range(0, 100, 5))
def test_it_takes_what_the_schedule_takes(seed: int, gradients: bool, name: str) -> None:
    _, tree, cuts, operands = network(seed)
    options = Options.read(name)
    works = Works()
    for extra in (0, 1, 2):
        chosen = [cut._replace(block=min(cut.block + extra, tree.sizes[cut.label])) for cut in cuts]
        whole, marked = schedule(tree, chosen), schedule(tree, chosen, marked=True)
        if gradients:
            wanted = [True] * len(operands)
            whole, marked = (adjoint(x, wanted, name != "real") for x in (whole, marked))
        expected = demand(whole, torch.float32, "cpu", options)
        labels = [cut.label for cut in cuts]
        skeleton = Skeleton(marked, labels, torch.float32, "cpu", options, works=works)
        # What torch allocates for one line is beside all buffers, at whatever moment.
        lines = range(len(expected.moments))
        buffers = [sum(x.bytes for x in expected.intervals if x.first <= line <= x.last) for line in lines]
        most = max(buffers, default=0) + expected.apart_bytes + expected.output_bytes
        assert most >= expected.peak_bytes
        limit = 0.6 * most
        found = skeleton.take([cut.block for cut in chosen], limit)
        assert found.bytes == most
        assert found.seconds == pytest.approx(expected.seconds)
        assert (found.over > 0) == (most > limit)
        held = skeleton.held([cut.block for cut in chosen], found.moment)
        assert 2 * (sum(x.bytes for x in held) + expected.output_bytes) >= found.bytes
