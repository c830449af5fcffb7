"""Cases that run in Triton's interpreter, which has to be chosen before Triton is imported: in a process of their own.

A test module that has such cases is also the program of that process: it calls `run_cases` where it is run as one.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def run_cases(names: Iterable[str], compute: Callable[[str], object]) -> None:
    """In the process: a line of JSON for each case, its result or a traceback."""
    for name in names:
        try:
            result = compute(name)
        except Exception:
            result = traceback.format_exc()
        print(json.dumps({name: result}), flush=True)


def interpreted(module: str, names: Iterable[str]) -> dict:
    """The results of the named cases of a test module (its `__file__`), from a process in which Triton interprets."""
    pytest.importorskip("triton")
    path = os.pathsep.join(map(str, (TESTS.parent / "src", TESTS)))
    run = subprocess.run(
        [sys.executable, module, *names],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return {k: v for line in run.stdout.splitlines() if line.startswith("{") for k, v in json.loads(line).items()}
