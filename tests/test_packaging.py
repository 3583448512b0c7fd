"""What is in the tree is what gets installed."""

from __future__ import annotations

import ast
import configparser
import inspect
import os
import re
from pathlib import Path

import pytest

import einfx

ROOT = Path(__file__).parents[1]
PASS_FILES = sorted((ROOT / "passes").rglob("*.py"))


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    """setup.cfg, parsed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def entries(text: str) -> list[str]:
    """The lines of a list in setup.cfg, without comments."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def tree(folder: str, name: str) -> set[str]:
    """The packages under a folder of the checkout that is imported as ``name``."""
    files = [
        path
        for path in (ROOT / folder).rglob("*.py")
        if "passes" not in path.relative_to(ROOT / folder).parts
    ]
    parents = {file.parent.relative_to(ROOT / folder) for file in files}
    return {".".join((name, *parent.parts)) for parent in parents}


def requirement_name(requirement: str) -> str:
    """``opt-einsum`` from ``opt_einsum>=3.3``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[._-]+", "-", found.group()).lower()


def test_setup_cfg_lists_every_package_of_the_tree(config: configparser.ConfigParser) -> None:
    listed = entries(config["options"]["packages"])
    assert sorted(listed) == sorted(tree("einfx", "einfx") | tree("passes", "einfx.passes"))


def test_every_package_has_an_init_file(config: configparser.ConfigParser) -> None:
    for package in entries(config["options"]["packages"]):
        assert (ROOT / package.replace(".", "/") / "__init__.py").is_file(), package


def test_every_data_file_is_listed(config: configparser.ConfigParser) -> None:
    found = {
        path.name
        for path in (ROOT / "einfx").rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc", ".so", ".c", ".h")
        and "__pycache__" not in path.parts
    }
    listed = {name for value in config["options.package_data"].values() for name in entries(value)}
    assert found == listed


def test_einfx_passes_is_the_folder_passes(config: configparser.ConfigParser) -> None:
    assert entries(config["options"]["package_dir"]) == ["einfx.passes = passes"]
    link = ROOT / "einfx" / "passes"
    assert link.is_symlink()
    assert os.readlink(link) == "../passes"


def test_passes_lie_flat_in_their_folder() -> None:
    assert {file.parent for file in PASS_FILES} == {ROOT / "passes"}


@pytest.mark.parametrize("file", PASS_FILES, ids=lambda file: file.name)
def test_passes_import_the_rest_of_einfx_relatively(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        roots = {name.split(".")[0] for name in names}
        assert not roots & {"einfx", "passes"}, f"{file.name}:{getattr(node, 'lineno', 0)}"


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert len(set(einfx.__all__)) == len(einfx.__all__)
    for name in einfx.__all__:
        value = getattr(einfx, name)
        if callable(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"einfx.{name} has no docstring"


def test_every_requirement_is_pinned_in_the_constraints(config: configparser.ConfigParser) -> None:
    wanted = entries(config["options"]["install_requires"])
    for extra in config["options.extras_require"].values():
        wanted += entries(extra)
    pinned = {
        requirement_name(line) for line in entries((ROOT / "constraints.txt").read_text()) if "==" in line
    }
    assert {requirement_name(line) for line in wanted} <= pinned


def test_both_readme_commands_install_editable_with_the_constraints() -> None:
    text = (ROOT / "README.md").read_text()
    commands = dict(
        re.findall(r"^<!-- command: (\w+) -->\n```bash\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    )
    assert sorted(commands) == ["demo", "tests"]
    for command in commands.values():
        assert "python3 -m venv " in command
        assert re.search(r"pip install -c constraints\.txt -e ", command)


def test_the_version_is_that_of_setup_cfg(config: configparser.ConfigParser) -> None:
    assert einfx.__version__ == config["metadata"]["version"]
