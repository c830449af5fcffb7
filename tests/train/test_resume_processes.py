"""The same for a run of two processes, of which all are killed at once. See `killing.py`."""

import pytest

from killing import assert_same, finish, kill_at, result, start

SHORTER = ("--epochs", "1", "--runtime.workers", "0")
STEPS = 15


@pytest.mark.slow
def test_two_processes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, *SHORTER, processes=2))
    kill_at(broken, 5, 0.3, *SHORTER, processes=2, steps=STEPS)
    finish(start(broken, *SHORTER, processes=2))
    assert_same(result(whole, STEPS), result(broken, STEPS))
