"""The command line, mostly called in this process; where that would change it, as a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import einfx
import einfx.costs.step_kernel
from einfx import cli

ROOT = Path(__file__).parents[1]

MODEL = """
import torch

class Chain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.u = torch.nn.Parameter(torch.randn(20, 3))
        self.v = torch.nn.Parameter(torch.randn(3, 20))

    def forward(self, x):
        return torch.einsum("bi,ij->bj", 2.0 * x, torch.einsum("ir,rj->ij", self.u, self.v))

class Branching(Chain):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

def chain():
    return Chain(), (torch.randn(8, 20),)

def one_tensor():
    return Chain(), torch.randn(8, 20)

def branching():
    return Branching(), (torch.randn(8, 20),)

def wrong_shape():
    return Chain(), (torch.randn(8, 21),)

def too_many():
    return Chain(), (torch.randn(8, 20), torch.randn(2))

def only_a_model():
    return Chain()

def no_tuple():
    return Chain(), 3

def failing():
    raise KeyError("no weights here")
"""
RAISING_LINE = MODEL.count("\n")


@pytest.fixture(autouse=True)
def _process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.delitem(sys.modules, cli.USER_MODULE, raising=False)
    # Times are not what is tested here.
    monkeypatch.setattr("einfx.demo.run.MEASURE_SECONDS", 0.01)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text(MODEL)
    return file


def einfx_process(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "einfx", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr with which the command line refuses the arguments."""
    try:
        code: object = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_plan_prints_each_step_of_the_contraction(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "ij,jk,kl->il", "--shapes", "10x20,20x30,30x5"]) == 0
    expected = einfx.contract_path("ij,jk,kl->il", (10, 20), (20, 30), (30, 5))
    assert capsys.readouterr().out == f"{expected}\n"


def test_an_empty_shape_is_that_of_a_scalar(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", ",i->i", "--shapes", ",3"]) == 0
    assert "scalar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("equation", "shapes", "named"),
    [
        ("ij,jk->ik", "10xa,3x3", "'10xa'"),
        ("ij,jk->ik", "10x-2,3x3", "'10x-2'"),
        ("ij,jk->ik", "10x20,21x3", "21"),
        ("ij,jk->ik", "10x20", "operand"),
        ("ij,j!->i", "10x20,20x1", "!"),
    ],
)
def test_plan_refuses_what_is_no_contraction(
    equation: str, shapes: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in complaint(capsys, "plan", equation, "--shapes", shapes)


def test_optimize_compares_the_model_with_the_original(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, report = tmp_path / "out.pt", tmp_path / "out.json"
    arguments = ["optimize", f"{model_file}:chain", "--torchscript", str(script), "--json", str(report)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    for part in ("code before", "code after", "FLOPs", "peak bytes", "time per call"):
        assert part in printed
    assert printed.count("equal, largest relative difference") == 2
    saved = json.loads(report.read_text())
    assert saved["equal"] is True
    assert saved["float64_difference"] <= 1e-12
    assert saved["report"]["flops_after"] <= saved["report"]["flops_before"]
    assert torch.jit.load(str(script))(torch.ones(2, 20)).shape == (2, 20)


def test_optimize_keeps_a_model_within_a_limit(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["optimize", f"{model_file}:chain", "--memory-limit", "1 MiB"]) == 0
    assert "memory:" in capsys.readouterr().out
    assert "memory_limit=1 " in complaint(capsys, "optimize", f"{model_file}:chain", "--memory-limit", "1")


def test_optimize_takes_a_single_tensor_for_the_example_inputs(
    model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["optimize", f"{model_file}:one_tensor"]) == 0


def test_optimize_imports_what_lies_beside_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cli_test_neighbour.py").write_text(MODEL)
    (tmp_path / "torch.py").write_text("from cli_test_neighbour import chain\n")
    assert cli.main(["optimize", f"{tmp_path / 'torch.py'}:chain"]) == 0


@pytest.mark.parametrize(
    ("factory", "named"),
    [
        ("missing", "has no function 'missing'"),
        ("MODEL-1", "not of the form FILE.py:FACTORY"),
        ("failing", f"at line {RAISING_LINE}: KeyError: 'no weights here'"),
        ("only_a_model", "returns a value of type Chain; expected (model, example_inputs)"),
        ("no_tuple", "example_inputs is a value of type int"),
        ("branching", "if x.sum() > 0:"),
        ("wrong_shape", "21"),
        ("too_many", "inputs"),
    ],
)
def test_optimize_says_what_is_wrong_with_the_input_and_where(
    factory: str, named: str, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = complaint(capsys, "optimize", f"{model_file}:{factory}")
    assert named in message
    assert "model.py" in message


def test_optimize_refuses_files_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file: nowhere.py" in complaint(capsys, "optimize", "nowhere.py:make")
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\ndef make(:\n")
    assert "can't be imported at line 2: SyntaxError" in complaint(capsys, "optimize", f"{broken}:make")
    broken.write_text("import torch\nimport not_a_module_at_all\n")
    assert "at line 2: ModuleNotFoundError" in complaint(capsys, "optimize", f"{broken}:make")
    data = tmp_path / "data.txt"
    data.write_text("")
    assert "is not a Python file" in complaint(capsys, "optimize", f"{data}:make")


@pytest.mark.parametrize("option", ["--json", "--torchscript"])
def test_optimize_checks_where_it_writes_before_it_works(
    option: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "no_folder" / "out")
    assert "no_folder is not a folder" in complaint(capsys, "optimize", f"{model_file}:chain", option, out)
    assert "is not a file" in complaint(capsys, "optimize", f"{model_file}:chain", option, str(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["plan", "ij->i"], ["optimize"], ["plan", "--shap"]])
def test_wrong_arguments_are_one_line_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--help" in complaint(capsys, *arguments)


PROGRAM = """
import sys, opt_einsum_fx
print(__name__, sys.argv[1:], opt_einsum_fx.optimize_einsums_full.__module__)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_run_starts_a_program_with_its_own_options_and_a_library_replaced(
    as_module: bool, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    program = ["-m", "program"] if as_module else ["program.py"]
    command = ["run", "--replace", "opt_einsum_fx", *program, "--epochs", "3", "-m", "--replace", "x"]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from einfx.cli import main; sys.exit(main())", *command],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, *rest = done.stdout.strip().split(" ", 1)
    assert name == "__main__"
    assert rest[0].startswith("['--epochs', '3', '-m', '--replace', 'x'] einfx.compat")


def test_run_leaves_a_program_its_own_errors_and_exit_codes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.exit(7)")
    assert einfx_process("run", str(program)).returncode == 7
    program.write_text("import einfx\neinfx.einsum('ij->k')")
    done = einfx_process("run", str(program))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.py"], "no such file: nowhere.py"),
        (["-m", "not_a_module_at_all"], "not_a_module_at_all"),
        (["-m", "not_a_package.module"], "not_a_package"),
        (["-m", "einfx.passes"], "einfx.passes"),
        (["-m"], "no program"),
        ([], "no program"),
        (["--replace", "no_such_library", "x.py"], "no_such_library"),
    ],
)
def test_run_refuses_what_it_cannot_start(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in complaint(capsys, "run", *arguments)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"einfx {einfx.__version__}\n"


def test_sizes_that_nothing_has_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "ij,jk", "--shapes", "99999999999999999x100000,100000x2"]) == 2
    assert "more elements than can be addressed" in capsys.readouterr().err


def test_info_names_versions_kernels_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["einfx"] == einfx.__version__
    assert rows["torch"] == torch.__version__
    assert rows["threads"].startswith(str(torch.get_num_threads()))
    assert "bmm" in rows["kernels"]


def test_info_lists_the_kernels_that_cost_describes() -> None:
    table = (einfx.costs.step_kernel.__doc__ or "").split("=\n")[2]
    names = re.findall(
        r"\w+", " ".join(re.split(r"\s{2,}", line, maxsplit=1)[0] for line in table.splitlines())
    )
    assert list(cli.KERNELS) == names


def test_python_m_einfx_ends_with_the_exit_code_of_the_command() -> None:
    assert einfx_process("info").returncode == 0
    done = einfx_process("plan", "ij->i", "--shapes", "x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_demo_finds_all_shipped_models_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("equal everywhere") == 3
    assert printed.count("reloaded in a process with torch alone: equal") == 3


def test_plan_shows_the_loops_that_a_limit_takes_and_keeps_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "ij,jk->ik", "100,20", "20,300", "--memory-limit", "2 MiB", "--gradients"]
    assert cli.main([*words, "--dtype", "float64", "--save", str(tmp_path / "plan.json")]) == 0
    plan = einfx.SlicedPlan.from_text((tmp_path / "plan.json").read_text())
    assert plan.memory_limit == 2 << 20
    assert capsys.readouterr().out == f"{plan}\n\n{plan.vjp()}\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["2x3"], "'2x3' is not a shape like 10,20"),
        (["2,3", "--shapes", "2x3"], "not both"),
        (["2,3", "--memory-limit", "12 parsecs"], "memory_limit='12 parsecs'"),
        (["2,3", "--memory-limit", "3"], "it needs"),
        (["2,3", "--dtype", "float33"], "'float33'"),
        (["2,3", "--save", "/nowhere/plan.json"], "/nowhere/plan.json"),
    ],
)
def test_plan_refuses_bad_words(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in complaint(capsys, "plan", "ij->j", *words)
