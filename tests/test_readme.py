"""What the README shows is what happens, and what CONTRIBUTING.md and CHANGELOG.md list is there."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import fx

import einfx
import einfx.passes
from einfx.cli import main
from einfx.errors import EinfxError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


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


@pytest.mark.parametrize(
    "title", ["Larger than memory", "Over other semirings", "Convolutions as contractions"]
)
def test_the_examples_of_a_section_print_what_stands_below_them(
    title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    section = _section(title)
    scope: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(block, "README.md", "exec"), scope)
    shown = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    assert shown
    assert capsys.readouterr().out.strip() == "".join(shown).strip()


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", _section("What it does to a model"), re.DOTALL)
)
def test_what_is_shown_of_models_and_calls_runs(block: str) -> None:
    model = torch.nn.Linear(4, 4)
    model.register_buffer("basis", torch.ones(4))
    scope: dict[str, object] = {
        "einfx": einfx,
        "torch": torch,
        "model": model,
        "example_inputs": (torch.ones(2, 4),),
        "a": torch.ones(10, 20),
        "b": torch.ones(20, 30),
        "c": torch.ones(30, 5),
    }
    exec(compile(block, "README.md", "exec"), scope)


@pytest.mark.parametrize(
    "line", [line for line in README.splitlines() if line.startswith("python -m einfx optimize")]
)
def test_the_commands_that_optimize_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.Linear(3, 4), (torch.ones(2, 3),)\n"
    )
    assert main(shlex.split(line)[3:]) == 0
    for name in re.findall(r"model\.pt|report\.json", line):
        assert Path(name).is_file()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(#([\w-]+)\)", README))))
def test_every_section_that_is_linked_exists(target: str) -> None:
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert target in {title.lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "call", re.findall(r"`(einfx\.(?!compat)[\w.]+\(.*?\))`", _section("Convolutions as contractions"))
)
def test_the_calls_that_are_listed_for_convolutions_run(call: str) -> None:
    pattern = einfx.IndexPattern(9, 3)
    scope: dict[str, object] = {
        "einfx": einfx,
        "x": torch.ones(2, 4, 9, 9),
        "inputs": (torch.ones(2, 4, 9, 9),),
        "weight": torch.ones(6, 4, 3, 3),
        "model": torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3)),
        "equation": "ncij,koi,lpj,dckl->ndop",
        "operands": (torch.ones(2, 4, 9, 9), pattern, pattern, torch.ones(6, 4, 3, 3)),
    }
    assert eval(call, scope) is not None


def test_limits_on_what_torch_saves_between_operations_are_yet_to_come() -> None:
    assert "saves between operations for the backward pass comes on top" in _section("What isn't there yet")
    saved = torch.ones(100, 100, requires_grad=True)
    limited = einfx.optimize(lambda x: x.exp().sin().exp(), (saved,), memory_limit=80_000)
    assert limited(saved).requires_grad


def test_patterns_of_traced_sizes_are_yet_to_come() -> None:
    assert "not sizes of a traced tensor" in _section("What isn't there yet")
    with pytest.raises(EinfxError, match="input_size"):
        fx.symbolic_trace(lambda x: einfx.einsum("ni,koi->nko", x, einfx.IndexPattern(x.size(1), 3)))


def test_patterns_over_semirings_are_yet_to_come_to_torchscript_and_printed_plans() -> None:
    assert "no TorchScript form, and `contract_path`" in _section("What isn't there yet")
    equation, pattern, operands = "ni,koi,k->no", einfx.IndexPattern(4, 2), (torch.ones(1, 4), torch.ones(2))

    def dilate(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = einfx.einsum(
            equation, x, einfx.IndexPattern(4, 2), kernel, semiring="max_plus"
        )
        return result

    with pytest.raises(EinfxError, match="TorchScript"):
        einfx.jitable(einfx.optimize(dilate, operands))
    with pytest.raises(EinfxError, match="max_plus"):
        einfx.contract_path(equation, operands[0], pattern, operands[1], semiring="max_plus")


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
