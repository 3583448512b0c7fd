"""What the README shows is what happens, and what CONTRIBUTING.md and CHANGELOG.md list is there."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

import einfx
import einfx.passes
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


@pytest.mark.parametrize(
    "line", [line for line in README.splitlines() if line.startswith("python -m einfx plan")]
)
def test_the_commands_that_plan_run(line: str) -> None:
    assert main(shlex.split(line)[3:]) == 0


def test_the_semiring_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    section = README.partition("## Over other semirings")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) >= 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    shown = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    assert capsys.readouterr().out.strip() == "".join(shown).strip()


def test_nothing_that_is_yet_to_come_is_there_already() -> None:
    limits = README.partition("## What isn't there yet")[2].partition("\n## ")[0]
    assert "Convolutions" in limits
    assert "conv" not in einfx.__all__, "the README says that convolutions come next"


def test_contributing_says_what_every_module_holds() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`([\w.]+/?)`", row)]
    inside = (ROOT / "einfx").iterdir()
    tree = [path.name for path in inside if path.suffix == ".py" and path.name != "__init__.py"]
    tree += [f"{path.name}/" for path in (ROOT / "einfx").iterdir() if (path / "__init__.py").is_file()]
    assert sorted(listed) == sorted(tree), "the table in CONTRIBUTING.md is not what lies in einfx/"


def test_the_changelog_names_everything_that_is_public() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    for name in (*einfx.__all__, *einfx.passes.__all__):
        assert re.search(rf"\b{name}\b", text), f"CHANGELOG.md says nothing of {name}"
