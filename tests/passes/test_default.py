"""The passes as a collection: one in each file, each documented, in one order with its reasons."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

from einfx import passes
from einfx.rewrite import Pass

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "passes").glob("*.py") if path.stem != "__init__")


def exported(file: str) -> list[type[Pass]]:
    """The passes that a file defines."""
    module = importlib.import_module(f"einfx.passes.{file}")
    members = [value for value in vars(module).values() if inspect.isclass(value)]
    return [x for x in members if issubclass(x, Pass) and x.__module__ == module.__name__]


@pytest.mark.parametrize("file", FILES)
def test_a_file_holds_one_pass_with_the_name_of_the_file(file: str) -> None:
    (only,) = exported(file)
    assert only.name == file.replace("_", "-")
    assert only.__name__.lower() == file.replace("_", "")


@pytest.mark.parametrize("file", FILES)
def test_a_pass_is_frozen_and_made_without_arguments(file: str) -> None:
    (only,) = exported(file)
    made = only()
    assert dataclasses.is_dataclass(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.anything = 1  # type: ignore[attr-defined]
    assert made == only()


@pytest.mark.parametrize("file", FILES)
def test_the_docstring_of_a_pass_shows_code_in_a_doctest(file: str) -> None:
    (only,) = exported(file)
    assert ">>> " in (only.__doc__ or "")
    assert f"{only.__name__}" in (only.__doc__ or "") or "jitable(" in (only.__doc__ or "")


@pytest.mark.parametrize("file", FILES)
def test_every_pass_has_a_test_file_of_its_name(file: str) -> None:
    assert (ROOT / "tests" / "passes" / f"test_{file}.py").is_file()


def test_names_are_unique() -> None:
    names = [only.name for file in FILES for only in exported(file)]
    assert len(set(names)) == len(names)


def test_every_pass_that_is_no_output_format_is_in_the_default_or_on_request() -> None:
    used = {type(step).__name__ for step in passes.WITH_CONVOLUTIONS}
    assert {only.__name__ for file in FILES for only in exported(file)} - used == {"Jitable"}
    assert passes.WITH_CONVOLUTIONS[1:] == passes.DEFAULT


def test_every_line_of_the_default_gives_its_reason() -> None:
    source = (ROOT / "passes" / "__init__.py").read_text()
    assignment = next(node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign))
    assert isinstance(assignment.value, ast.Tuple)
    lines = source.splitlines()
    for element in assignment.value.elts:
        assert "),  # " in lines[element.lineno - 1], lines[element.lineno - 1]
