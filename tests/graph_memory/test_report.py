"""The report of a limited model says what it takes, where, and what was cut."""

from __future__ import annotations

import json

import torch

import einfx
from tests.program import tensor


def _program(a: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,jk,ki->", a.exp(), a, a)


def test_the_report_names_the_limit_the_peak_its_line_and_the_blocks() -> None:
    a = tensor((60, 60))
    limited = einfx.optimize(_program, (a,), memory_limit=45_000)
    memory = limited.report.memory
    assert memory is not None
    assert memory.bytes_after <= 45_000 < memory.bytes_before
    (cut,) = memory.cuts
    assert cut.limit == 45_000 - 60 * 60 * 8
    assert cut.blocks > 1
    text = str(limited.report)
    for part in (
        "Memory",
        "limit 43.95 KiB",
        "peak after: einsum",
        "test_report.py",
        "blocks",
        "exp 28.12 KiB",
    ):
        assert part in text, part
    assert "## Memory" in limited.report.to_markdown()
    data = json.loads(json.dumps(limited.report.to_dict()))["memory"]
    assert data["limit"] == 45_000
    assert data["after"]["alive"] == [{"node": "exp", "bytes": 28_800}]


def test_contractions_that_are_computed_together_in_blocks_are_not_said_to_have_limits_of_their_own() -> None:
    a, b, c = tensor((40, 3, 8)), tensor((40, 3, 8), seed=1), tensor((40, 3, 8), seed=2)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(torch.einsum("qhd,khd->hqk", q, k), -1)
        return torch.einsum("hqk,khd->qhd", weights, v)

    limit = 20_000
    with torch.no_grad():
        limited = einfx.optimize(attention, (a, b, c), memory_limit=limit)
    memory = limited.report.memory
    assert memory is not None
    (part,) = memory.parts
    assert part.blocks > 1
    assert 40 * 3 * 8 * 8 <= part.bytes <= memory.bytes_after <= limit
    assert sum("einsum" in name for name in part.nodes) == 2
    assert memory.cuts == ()
    text = str(limited.report)
    assert f"together in {part.blocks} blocks, taking" in text
    assert " within " not in text[text.index("Memory") :].replace("stay within the limit", "")
    assert json.loads(json.dumps(memory.to_dict()))["parts"] == [
        {"nodes": list(part.nodes), "blocks": part.blocks, "bytes": part.bytes}
    ]


def test_a_report_without_a_limit_says_nothing_of_it() -> None:
    report = einfx.optimize(_program, (tensor((6, 6)),)).report
    assert report.memory is None
    assert report.to_dict()["memory"] is None
