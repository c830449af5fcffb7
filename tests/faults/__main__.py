"""Run every scenario in full and write results/faults.json: `python -m tests.faults`. Arguments go to pytest."""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    os.environ.setdefault("CONVNEXT_FAULTS", str(root / "results" / "faults.json"))
    sys.exit(pytest.main(["-n", "0", "-m", "faults", str(root / "tests" / "faults"), *sys.argv[1:]]))
