"""A run that is killed at any instant continues to the same bits as one that was not, each time a new Python. See `killing.py`.

The default tests do the same with forked processes, which start at once: `tests/faults/test_kills.py`.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from killing import STEPS, assert_same, finish, kill_at, recorded, result, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(out, "--runtime.workers", "0"))
    return out


@pytest.fixture(scope="module")
def uninterrupted(whole) -> dict:
    return result(whole)


def test_killed_three_times(uninterrupted, tmp_path):
    """One run, killed early, halfway and late, continued by another number of workers each time."""
    out = tmp_path / "run"
    chance = random.Random(0)
    for step, workers in ((5, "0"), (25, "2"), (40, "0")):
        kill_at(out, step, chance.uniform(0, 1), "--runtime.workers", workers)
    said = finish(start(out, "--runtime.workers", "2"))
    assert "Continuing the run" in said
    assert_same(uninterrupted, result(out))


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_point(uninterrupted, tmp_path, seed, workers):
    out = tmp_path / "run"
    chance = random.Random(f"{seed} {workers}")
    kill_at(out, chance.randrange(0, STEPS - 5, 5), chance.uniform(0, 1.5), "--runtime.workers", workers)
    finish(start(out, "--runtime.workers", workers))
    assert_same(uninterrupted, result(out))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_within_a_step_and_exits_with_its_code(tmp_path, signum, code):
    out = tmp_path / "run"
    process = start(out, "--runtime.workers", "2", "--runtime.checkpoint-steps", "1000")
    while recorded(out) < 5 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signum)  # the whole group, as a terminal and a scheduler do
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "Give the same command to continue" in output
    assert "Traceback" not in output
    saved = max((out / "checkpoints").iterdir())
    assert 5 <= int(saved.name[5:13]) <= 20


def test_a_run_that_was_stopped_ends_in_the_same_bits(uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(out, "--runtime.workers", "2", "--runtime.checkpoint-steps", "1000")
    while recorded(out) < 5 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    finish(start(out, "--runtime.workers", "0", "--runtime.checkpoint-steps", "1000"))
    assert_same(uninterrupted, result(out))


def test_another_config_is_refused_and_the_difference_shown(whole):
    process = start(whole, "--optim.lr", "0.5")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "optim.lr: 0.002 there, 0.5 now" in output
    assert "Traceback" not in output
