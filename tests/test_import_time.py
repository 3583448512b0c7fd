"""Importing einfx imports nothing large that only some programs need."""

from __future__ import annotations

import subprocess
import sys


def test_importing_einfx_imports_no_compiler() -> None:
    program = "import sys, torch; before = set(sys.modules); import einfx; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"torch._dynamo", "torch._inductor", "sympy", "cotengra"} & set(found.split())
