"""The same for a run of two processes, of which all are killed at once. See `killing.py`."""

import os
import signal
import time
from pathlib import Path

import pytest

from killing import assert_same, family, finish, kill_at, recorded, result, start

SHORTER = ("--epochs", "1", "--runtime.workers", "0")
STEPS = 15


@pytest.mark.slow
def test_two_processes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, *SHORTER, processes=2))
    kill_at(broken, 5, 0.3, *SHORTER, processes=2, steps=STEPS)
    finish(start(broken, *SHORTER, processes=2))
    assert_same(result(whole, STEPS), result(broken, STEPS))


@pytest.mark.slow
def test_one_of_two_processes_is_killed(tmp_path):
    """The other one says so in one paragraph, and the run continues, here with one process."""
    out = tmp_path / "run"
    process = start(out, *SHORTER, processes=2)
    while recorded(out) < 5 and process.poll() is None:
        time.sleep(0.02)
    ranks = [pid for pid in family(process.pid) if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    os.kill(ranks[0], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert output.count("convnext: Another of the run's 2 processes was killed or has failed") == 1, output
    assert "Give the same command to continue" in output
    assert "in backward" not in output  # no traceback of the engine; torchrun prints its own
    output = finish(start(out, *SHORTER))
    assert "2 processes before, 1 now" in output
