"""The command line: ``python -m einfx demo | optimize | plan | run | info``.

Everything here reads arguments and prints; the work is done elsewhere. Bad input ends with exit code 2 and
one line on stderr that says what is wrong and where.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

import einfx
from einfx import compat
from einfx.demo.run import Comparison, ModelError, compare, describe, first_line, run_demo
from einfx.errors import EinfxError, UsageError
from einfx.kernels import log_native, tropical_native, windows_native
from einfx.paths import walks_native

__all__ = ["main"]

OK, DIFFERENT, BAD_INPUT = 0, 1, 2

USER_MODULE = "einfx_user_program"
"""The name under which a user's file is imported; it hides no other module, whatever the file is called."""

KERNELS = ("view", "sum", "multiply", "multiply_sum", "unrolled", "dot", "mv", "mm", "bmm", "einsum")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        0, or 1 if a model came out with other numbers than the original, or 2 for bad input.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(_with_program_apart(words))
    try:
        command: Callable[[argparse.Namespace], int | Callable[[], object]] = options.command
        result = command(options)
    except BrokenPipeError:
        # The reader of a pipe went away, as head does; stdout must not be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (EinfxError, ModelError) as error:
        print(f"einfx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    if callable(result):
        # Somebody's program: whatever it raises is its own, traceback and all.
        result()
        return OK
    return result


def _parser() -> _Parser:
    parser = _Parser(prog="einfx", description="An optimizing compiler for einsum programs in PyTorch.")
    parser.add_argument("--version", action="version", version=f"einfx {einfx.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="optimise the models that ship with einfx and compare")
    demo.set_defaults(command=_demo)

    optimize = commands.add_parser("optimize", help="optimise a model of yours and compare")
    optimize.add_argument(
        "factory", metavar="FILE.py:FACTORY", help="a function in it that returns (model, example_inputs)"
    )
    optimize.add_argument(
        "--torchscript", type=Path, metavar="OUT.pt", help="save the optimised model as TorchScript"
    )
    optimize.add_argument("--json", type=Path, metavar="OUT.json", help="save the report and the comparison")
    optimize.add_argument("--memory-limit", metavar="BYTES", help="such as 512MiB: keep it within that")
    optimize.set_defaults(command=_optimize)

    plan = commands.add_parser("plan", help="show in which order a contraction is computed")
    plan.add_argument("equation", metavar="EQUATION", help="such as ij,jk,kl->il")
    plan.add_argument(
        "operands", nargs="*", metavar="SHAPE", help="such as 10,20: one an operand, '' for a scalar"
    )
    plan.add_argument("--shapes", metavar="10x20,20x30,...", help="the same in one word")
    plan.add_argument("--semiring", default="real", metavar="NAME", help="real, log, max_plus, ...")
    plan.add_argument("--dtype", default="float32", metavar="NAME", help="float32, float64, complex64, ...")
    plan.add_argument(
        "--memory-limit", metavar="BYTES", help="such as 512MiB: show the loops that keep it within that"
    )
    plan.add_argument("--gradients", action="store_true", help="show the plan of all gradients too")
    plan.add_argument("--save", type=Path, metavar="FILE", help="keep the plan, for optimize= of einsum")
    plan.set_defaults(command=_plan)

    run = commands.add_parser(
        "run",
        help="run a program with einfx in the place of a library",
        usage="einfx run [--replace NAME]... (-m MODULE | FILE.py) [ARGS]...",
    )
    run.add_argument(
        "--replace", action="append", default=[], metavar="NAME", help="a library, such as opt_einsum_fx"
    )
    run.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.set_defaults(command=_run)

    info = commands.add_parser("info", help="show versions, kernels and threads")
    info.set_defaults(command=_info)
    return parser


def _with_program_apart(words: list[str]) -> list[str]:
    """Put ``--`` before the program of ``run``, so that its own options stay its own."""
    if words[:1] != ["run"]:
        return words
    position = 1
    while position < len(words) and words[position].startswith("-") and words[position] != "-m":
        position += 2 if words[position] == "--replace" else 1
    return [*words[:position], "--", *words[position:]] if position < len(words) else words


def _demo(options: argparse.Namespace) -> int:
    return OK if run_demo() else DIFFERENT


def _optimize(options: argparse.Namespace) -> int:
    for out in filter(None, (options.torchscript, options.json)):
        if out.is_dir() or not out.parent.is_dir():
            raise UsageError(
                f"can't write {out}: {out if out.is_dir() else out.parent} is not a "
                f"{'file' if out.is_dir() else 'folder'}"
            )
    model, inputs = _made_by(options.factory)
    try:
        comparison = compare(
            model, inputs, torchscript=options.torchscript, memory_limit=options.memory_limit
        )
    except (EinfxError, ModelError) as error:
        raise UsageError(f"{options.factory}: {error}") from error
    print(describe(comparison))
    if options.json is not None:
        options.json.write_text(json.dumps(comparison.to_dict(), indent=2) + "\n")
    return _verdict(options, comparison)


def _verdict(options: argparse.Namespace, comparison: Comparison) -> int:
    if options.torchscript is not None and comparison.script_problem is not None:
        raise UsageError(f"{options.factory}: the model can't be scripted: {comparison.script_problem}")
    return OK if comparison.numbers_equal else DIFFERENT


def _made_by(factory: str) -> tuple[Any, tuple[Any, ...]]:
    """The model and the example inputs of ``FILE.py:FACTORY``."""
    file, colon, name = factory.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UsageError(f"{factory!r} is not of the form FILE.py:FACTORY")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no such file: {file}")
    spec = importlib.util.spec_from_file_location(USER_MODULE, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, pickle and torch.jit look a module up by its name; imports beside the file must work too.
    sys.modules[USER_MODULE] = module
    sys.path.insert(0, str(path.resolve().parent))
    with _blaming(path, f"{file} can't be imported"):
        spec.loader.exec_module(module)
    make = getattr(module, name, None)
    if not callable(make):
        raise UsageError(f"{file} has no function {name!r}")
    with _blaming(path, f"{factory} failed"):
        made = make()
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0])):
        raise UsageError(f"{factory} returns {_kind(made)}; expected (model, example_inputs)")
    model, inputs = made
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, (tuple, list)):
        raise UsageError(
            f"{factory}: example_inputs is {_kind(inputs)}; expected a tuple of the model's arguments"
        )
    return model, tuple(inputs)


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} ({', '.join(type(item).__name__ for item in value)})"
    return f"a value of type {type(value).__name__}"


@contextlib.contextmanager
def _blaming(path: Path, what: str) -> Iterator[None]:
    """Turns whatever the user's file raises into one line that names the file and the line in it."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        if (
            isinstance(error, SyntaxError)
            and error.filename
            and Path(error.filename).resolve() == path.resolve()
        ):
            lines.append(error.lineno)
        where = f" at line {lines[-1]}" if lines else ""
        raise UsageError(f"{what}{where}: {first_line(error)}") from error


def _plan(options: argparse.Namespace) -> int:
    if bool(options.operands) == (options.shapes is not None):
        raise UsageError(
            f"plan {options.equation!r}: give the shape of each operand, such as 100,200 200,300"
            + (", or --shapes, not both" if options.operands else " (see einfx plan --help)")
        )
    if options.save is not None and (options.save.is_dir() or not options.save.parent.is_dir()):
        raise UsageError(f"can't write {options.save}: it is a folder, or its folder isn't there")
    dtype = getattr(torch, options.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"--dtype: {options.dtype!r} is no dtype of torch, such as float32")
    if options.shapes is not None:
        shapes = [_shape(text, "x", "--shapes") for text in options.shapes.split(",")]
    else:
        shapes = [_shape(text, ",", "plan") for text in options.operands]
    made = einfx.contract_path(
        options.equation, *shapes, dtype=dtype, semiring=options.semiring, memory_limit=options.memory_limit
    )
    print(made)
    if options.gradients:
        print(f"\n{made.vjp()}")
    if options.save is not None:
        options.save.write_text(made.to_text() + "\n")
    return OK


def _shape(text: str, separator: str, where: str) -> tuple[int, ...]:
    """The shape in a text such as ``10x20``; an empty one is a scalar's."""
    sizes = [size.strip() for size in text.split(separator)] if text.strip() else []
    if not all(size.isascii() and size.isdigit() for size in sizes):
        example = separator.join(("10", "20"))
        raise UsageError(f"{where}: {text!r} is not a shape like {example}")
    return tuple(map(int, sizes))


def _run(options: argparse.Namespace) -> Callable[[], object]:
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not program or program == ["-m"]:
        raise UsageError("run: no program given; expected -m MODULE or FILE.py, then its arguments")
    names = [name for text in options.replace for name in text.split(",")]
    if names:
        compat.install(*names)
    if program[0] == "-m":
        return _module_program(program[1], program[2:])
    return _file_program(program[0], program[1:])


def _module_program(name: str, arguments: list[str]) -> Callable[[], object]:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ModuleNotFoundError, ValueError) as error:
        raise UsageError(f"run: can't find the module {name}: {error}") from error
    if spec is None:
        raise UsageError(f"run: there is no module {name} that could be run")
    sys.argv = [spec.origin or name, *arguments]
    return partial(runpy.run_module, name, run_name="__main__", alter_sys=True)


def _file_program(file: str, arguments: list[str]) -> Callable[[], object]:
    if not Path(file).is_file():
        raise UsageError(f"run: no such file: {file}")
    sys.argv = [file, *arguments]
    sys.path.insert(0, str(Path(file).resolve().parent))
    return partial(runpy.run_path, file, run_name="__main__")


def _info(options: argparse.Namespace) -> int:
    rows = [
        ("einfx", einfx.__version__),
        ("python", platform.python_version()),
        *((name, _version(name)) for name in ("torch", "opt_einsum", "networkx", "cotengra")),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("cpu", torch.backends.cpu.get_cpu_capability()),
        ("gpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
        ("semirings", ", ".join(einfx.semirings())),
        ("kernels", ", ".join(KERNELS)),
        (
            "extension",
            f"log {log_native.describe()}; max_plus and relatives {tropical_native.describe()}; "
            f"windows {windows_native.describe()}; paths {walks_native.describe()}",
        ),
    ]
    for name, value in rows:
        print(f"{name:12}{value}")
    return OK


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
