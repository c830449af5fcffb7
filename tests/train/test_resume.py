"""A run that is killed at any instant continues to the same bits as one that was not.

Real processes, killed with SIGKILL: 60 optimizer steps on digits with Mixup, RandAugment, random erasing, drop-path,
gradient accumulation and EMA, a checkpoint every 5 steps.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

OPTIONS = (
    "--model.name roadmap_resnet50_separate-downsampling --model.width-mult 0.125 --model.depth-mult 0.34 "
    "--epochs 4 --total-batch 90 --device-batch 45 --model.drop-path-rate 0.2 --augment.rand-augment rand-m9-mstd0.5-inc1 "
    "--augment.random-erasing 0.25 --augment.mixup 0.8 --augment.cutmix 1.0 --runtime.checkpoint-steps 5 "
    "--runtime.log-every 5 --runtime.device cpu"
).split()
STEPS = 60


def start(out: Path, *extra: str, processes: int = 1) -> subprocess.Popen:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launcher, "-m", "convnext", "train", "quickstart", *OPTIONS, *extra, "--out", str(out)]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def family(pid: int) -> list[int]:
    """A process and all below it: torchrun gives its workers sessions of their own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def kill(process: subprocess.Popen) -> None:
    for pid in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def kill_at(out: Path, step: int, delay: float, *extra: str, processes: int = 1) -> None:
    """Start, wait until `step` is recorded, wait `delay` seconds more, kill."""
    process = start(out, *extra, processes=processes)
    deadline = time.monotonic() + 120
    while recorded(out) < step and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    assert process.poll() is None or recorded(out) == STEPS, process.communicate()[0]
    kill(process)


def recorded(out: Path) -> int:
    path = out / "metrics.jsonl"
    steps = (
        [json.loads(line)["step"] for line in path.read_text().splitlines(True) if line.endswith("\n")]
        if path.exists()
        else []
    )
    return steps[-1] if steps else 0


def result(out: Path) -> dict:
    """All tensors of the last checkpoint, and the losses and accuracies along the way."""
    newest = max((out / "checkpoints").iterdir())
    assert newest.name.startswith(f"step-{STEPS:08d}")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in r.items() if k not in ("images_per_second", "data_wait")} for r in records]
    files = {name: load_file(out / f"{name}.safetensors") for name in ("model", "model_ema", "best")}
    return {"state": load_file(newest / "state.safetensors"), "records": timeless, **files}


def assert_same(one: dict, other: dict) -> None:
    assert one["records"] == other["records"]
    for part in ("state", "model", "model_ema", "best"):
        assert one[part].keys() == other[part].keys()
        for name, tensor in one[part].items():
            assert tensor.equal(other[part][name]), f"{part} {name}"
    kinds = {name.partition(".")[0] for name in one["state"]}
    assert kinds == {"model", "ema", "optim"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(out, "--runtime.workers", "0"))
    return result(out)


def test_killed_three_times(uninterrupted, tmp_path):
    """One run, killed early, in the middle and late, continued by another number of workers each time."""
    out = tmp_path / "run"
    chance = random.Random(0)
    for step, workers in ((5, "0"), (25, "2"), (45, "0")):
        kill_at(out, step, chance.uniform(0, 1), "--runtime.workers", workers)
    said = finish(start(out, "--runtime.workers", "2"))
    assert "Continuing the run" in said
    assert_same(uninterrupted, result(out))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_point(uninterrupted, tmp_path, seed, workers):
    out = tmp_path / "run"
    chance = random.Random(f"{seed} {workers}")
    kill_at(out, chance.randrange(0, STEPS - 5, 5), chance.uniform(0, 1.5), "--runtime.workers", workers)
    finish(start(out, "--runtime.workers", workers))
    assert_same(uninterrupted, result(out))


def test_two_processes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, "--runtime.workers", "0", processes=2))
    kill_at(broken, 20, 0.3, "--runtime.workers", "0", processes=2)
    finish(start(broken, "--runtime.workers", "0", processes=2))
    assert_same(result(whole), result(broken))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_within_a_step_and_exits_with_its_code(uninterrupted, tmp_path, signum, code):
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
    if signum == signal.SIGTERM:
        finish(start(out, "--runtime.workers", "0", "--runtime.checkpoint-steps", "1000"))
        assert_same(uninterrupted, result(out))


def test_another_config_is_refused_and_the_difference_shown(uninterrupted, tmp_path):
    out = tmp_path / "run"
    kill_at(out, 5, 0)
    process = start(out, "--optim.lr", "0.5")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "optim.lr: 0.002 there, 0.5 now" in output
    assert "Traceback" not in output
