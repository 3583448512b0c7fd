"""What the README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

import einfx
from einfx.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_example_prints_what_stands_below_it() -> None:
    found = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    code, expected = found.groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert printed.getvalue() == expected


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(?:torch\.jit\.script\()?einfx\.([\w.]+)", README)))
)
def test_every_name_of_einfx_exists(name: str) -> None:
    value = einfx
    for part in name.split("."):
        value = getattr(value, part)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|md|ipynb|txt))`", README)))
)
def test_every_file_that_is_named_exists(path: str) -> None:
    made_on_request = {"benchmarks/RESULTS.md"}
    assert path in made_on_request or (ROOT / path).is_file()


def test_the_command_that_plans_runs() -> None:
    line = next(line for line in README.splitlines() if line.startswith("python -m einfx plan"))
    assert main(shlex.split(line)[3:]) == 0


def test_nothing_that_is_yet_to_come_is_there_already() -> None:
    limits = README.partition("## What isn't there yet")[2].partition("\n## ")[0]
    assert "Semirings" in limits
    assert "convolutions" in limits
    assert not hasattr(einfx, "conv"), "the README says that convolutions come next"
    assert not hasattr(einfx, "Semiring"), "the README says that semirings come next"
