"""Functions called in processes of their own, one after the other.

A helper process imports what they need and forks for each call, so that a call starts with an allocator that
nobody has used, and takes no time to import torch. A call that fails, is killed for want of memory or takes
too long is told as that, and the next one is made; by another helper, where it took its own with it. Linux
only.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

__all__ = ["Answer", "each", "renew"]

_seconds = 0
"""In a forked process, what its call may take; 0 elsewhere."""


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
        argument: what it was called with.
        value: what it returned; None where it failed.
        failure: why it failed; empty where it didn't.
    """

    argument: Any
    value: Any
    failure: str


def each(function: str, arguments: Iterable[Any], seconds: int = 600) -> Iterator[Answer]:
    """Call a function with each argument, on one thread of a new process.

    Args:
        function: as ``module:name``; it takes one argument and returns what JSON can hold.
        arguments: each something that JSON can hold. The next one is asked for once the answer to the last
            was seen, so that it may depend on that.
        seconds: that a call may take.
    """
    left = iter(arguments)
    argument = next(left, None)
    while argument is not None:
        with _helper(function, seconds) as helper:
            assert helper.stdin is not None
            while argument is not None and helper.poll() is None:
                yield Answer(argument, *_asked(helper, argument))
                argument = next(left, None)
            helper.stdin.close()


def renew() -> None:
    """Give the call of this process its seconds anew: it takes several measurements of so many each."""
    if _seconds:
        signal.alarm(_seconds)


def _helper(function: str, seconds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"from {__name__} import serve; serve({function!r}, {seconds})"]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=_environment()
    )


def _asked(helper: subprocess.Popen[str], argument: Any) -> tuple[Any, str]:
    """What came of one call, and why nothing did."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    try:
        helper.stdin.write(json.dumps(argument) + "\n")
        helper.stdin.flush()
        line = helper.stdout.readline()
    except BrokenPipeError:
        line = ""
    if line:
        value, failure = json.loads(line)
        return value, failure
    return None, f"the process that calls it ended with {helper.wait()}"


def serve(function: str, seconds: int) -> None:
    """Answer each line of the standard input with one line."""
    import torch

    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        # No pipe: what a call leaves running would keep that open.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
            child = os.fork()
            if not child:
                os.setpgid(0, 0)
                _answer(call, json.loads(line), seconds, told)
            try:
                _, status = os.waitpid(child, 0)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            told.seek(0)
            # What was killed while it told may have told a part.
            print(told.read() if not status else json.dumps([None, _end(status, seconds)]), flush=True)


def _answer(call: Any, argument: Any, seconds: int, stream: IO[str]) -> None:
    """In the forked process: call, tell, and end without what the parent registered for its own end."""
    global _seconds
    _seconds = seconds
    renew()
    try:
        told = [call(argument), ""]
    except BaseException as error:
        told = [None, f"{type(error).__name__}: {error}"]
    stream.write(json.dumps(told))
    stream.flush()
    sys.stdout.flush()
    os._exit(0)


def _end(status: int, seconds: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    if number == -signal.SIGALRM:
        return f"took more than {seconds} s"
    return f"ended by {signal.Signals(-number).name}" if number < 0 else f"ended with {number}"


def _environment() -> dict[str, str]:
    # A pool of threads would not survive the fork.
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
