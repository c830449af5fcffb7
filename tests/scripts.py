"""The scripts of benchmarks/, run within a test's process."""

import json
import runpy
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, out: Path, *argv: str) -> dict:
    """Run a script within this process; returns the JSON that it wrote."""
    load(script)["main"]([*argv, "--out", str(out)])
    return json.loads(out.read_text())


def load(script: str) -> dict:
    return runpy.run_path(str(SCRIPTS / f"{script}.py"))
