"""Run every scenario in full and write results/faults.json: `python -m tests.faults`.

python -m tests.faults                    # what is not in the file yet, or did not survive
python -m tests.faults --fresh            # everything
python -m tests.faults --fresh -k kill    # some of it; other words go to pytest too; -n 0: one scenario after the other
"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    root, words = Path(__file__).parents[2], sys.argv[1:]
    os.environ.setdefault("CONVNEXT_FAULTS", str(root / "results" / "faults.json"))
    if "--fresh" in words:
        words.remove("--fresh")
        os.environ["CONVNEXT_FAULTS_FRESH"] = "1"
    sys.exit(pytest.main(["-n", "2", "--dist", "worksteal", "-m", "faults", str(root / "tests" / "faults"), *words]))
