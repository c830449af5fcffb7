"""Runs that are killed: real processes on digits with Mixup, RandAugment, random erasing, drop-path, gradient accumulation
and EMA; 60 optimizer steps, a checkpoint every 5."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

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


def kill_at(out: Path, step: int, delay: float, *extra: str, processes: int = 1, steps: int = STEPS) -> None:
    """Start, wait until `step` is recorded, wait `delay` seconds more, kill."""
    process = start(out, *extra, processes=processes)
    deadline = time.monotonic() + 120
    while recorded(out) < step and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    assert process.poll() is None or recorded(out) == steps, process.communicate()[0]
    kill(process)


def recorded(out: Path) -> int:
    path = out / "metrics.jsonl"
    steps = (
        [json.loads(line)["step"] for line in path.read_text().splitlines(True) if line.endswith("\n")]
        if path.exists()
        else []
    )
    return steps[-1] if steps else 0


def result(out: Path, steps: int = STEPS) -> dict:
    """All tensors of the last checkpoint, and the losses and accuracies along the way."""
    newest = max((out / "checkpoints").iterdir())
    assert newest.name.startswith(f"step-{steps:08d}")
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
