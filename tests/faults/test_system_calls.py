"""A save that is killed at, or fails in, each of its system calls. strace does it; without strace these are skipped.

The saves are a checkpoint, a file of weights and a small text, in this order, over earlier ones.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import Child
from scenario import Scenario, is_full, scenario, sizes
from test_damage import saved

from convnext.engine import checkpoint
from convnext.files import clear_leftovers, replace_text
from convnext.weights import files
from convnext.weights.save import save_weights

STRACE = shutil.which("strace")
WAITING = "pread64,clock_nanosleep"  # what the process does until strace is there, and
KNOCK = "getsid"  # this, which nothing else calls: once it is written down, no later call is missed
ON_FILES = (
    "openat,read,write,writev,pwrite64,lseek,newfstatat,fstat,statx,mkdir,rmdir,unlink,unlinkat,rename,fsync,ftruncate,fchmod,"
    "chmod,getdents64,close"
)
NAMES = {"checkpoints", "x.safetensors", "x.json", "output"}


def _may_trace() -> bool:
    return bool(STRACE) and subprocess.run([STRACE, "-o", "/dev/null", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _may_trace(), reason="strace is not installed, or may not trace here")


def save_all(root: Path, step: int) -> None:
    saved(root / "checkpoints", step)
    save_weights({"head.weight": torch.full((32, 32), float(step))}, root / "x.safetensors")
    replace_text(root / "x.json", str(step) * 3000)


def injected(root: Path, what: str, output: Path) -> Child:
    """A process that makes the saves of step 20 while strace does `what` to it."""

    def work() -> int:
        save_all(root.parent / "warm", 1)  # imports that are still to be done would be system calls too
        os.write(ready[1], b"!")
        while not os.pread(seen, 1, 0):
            os.getsid(0)
            time.sleep(0.002)
        save_all(root, 20)
        return 0

    calls = Path(f"{output}.calls")
    calls.write_bytes(b"")
    seen = os.open(calls, os.O_RDONLY)
    ready = os.pipe()
    child = Child(work, output)
    os.close(ready[1])
    assert os.read(ready[0], 1), child.text  # strace counts from when it comes, and none of the calls before is meant
    os.close(ready[0])
    os.close(seen)
    tracer = subprocess.Popen(
        [STRACE or "", "-qq", "-p", str(child.pid), "-o", str(calls), *what.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    child.wait(60)
    tracer.wait(20)
    return child


def assert_whole(root: Path) -> None:
    """The checkpoint, the weights and the text are each what they were or what they were to be, and nothing stays behind."""
    found = checkpoint.load_newest(root / "checkpoints")
    assert found
    tensors, manifest, complaints = found
    assert manifest["step"] in (10, 20)
    assert tensors["model.w"].eq(manifest["step"]).all()
    assert complaints == []
    weights = files.read(root / "x.safetensors", verify=True)[0]["head.weight"]
    assert weights.eq(10).all() or weights.eq(20).all()
    assert (root / "x.json").read_text() in ("10" * 3000, "20" * 3000)
    for folder in (root, root / "checkpoints"):
        clear_leftovers(folder)  # as the next command does
    assert {path.name for path in root.iterdir()} <= NAMES
    save_all(root, 30)
    assert {path.name for path in (root / "checkpoints").iterdir()} <= {
        f"step-{step:08d}" for step in (5, 10, 20, 30)
    }, "something is left"
    assert checkpoint.load_newest(root / "checkpoints")[1]["step"] == 30  # type: ignore[index]


def fresh(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    for step in (5, 10):
        save_all(root, step)
    return root


def calls_of_a_save(tmp_path: Path, which: str) -> list[str]:
    """The names of the system calls, in order."""
    child = injected(fresh(tmp_path), f"-e trace={which}", tmp_path / "output")
    assert child.code == 0, child.text
    return [
        found[1]
        for line in Path(f"{child.output}.calls").read_text().splitlines()
        if (found := re.match(r"(\w+)\(", line)) and found[1] != KNOCK
    ]


def nth(calls: list[str], number: int) -> str:
    """Call number `number`, counted from 1, as strace counts: each name by itself."""
    name = calls[number - 1]
    return f"{name}:when={calls[:number].count(name)}"


def spread(count: int, tried: int) -> Iterator[int]:
    """`tried` of the numbers 1..count at equal distances, or all."""
    return (1 + i * count // tried for i in range(min(count, tried))) if tried < count else iter(range(1, count + 1))


@sizes(3, 5000)
def test_killed_at_every_system_call(tmp_path, request, tried):
    what = "`kill -9` at each system call of saving a checkpoint, weights and a text (strace): each is the old or the new, whole"
    with scenario("kill at a system call", what, is_full(request)) as now:
        calls = calls_of_a_save(tmp_path, f"!{WAITING}")
        killed = 0
        for number in spread(len(calls), tried):
            with now.case(f"{number} {calls[number - 1]}"):
                root = fresh(tmp_path)
                child = injected(root, f"-e inject={nth(calls, number)}:signal=KILL", tmp_path / "output")
                assert child.code in (-9, 0), child.text  # 0: it made fewer calls than the one that was counted
                killed += child.code == -9
                assert_whole(root)
        assert killed >= 0.9 * now.tried
        now.note = f"{killed} were killed, {now.tried - killed} had ended by then; {calls.count('fsync')} of the calls are fsync"


def fails(now: Scenario, tmp_path: Path, error: str, tried: int) -> None:
    calls = calls_of_a_save(tmp_path, f"{ON_FILES},{KNOCK}")
    for number in spread(len(calls), tried):
        with now.case(f"{number} {calls[number - 1]}"):
            root = fresh(tmp_path)
            child = injected(root, f"-e inject={nth(calls, number)}:error={error}", tmp_path / "output")
            last = child.text.strip().splitlines()[-1:]
            # the error of an operation, in words or as Python's own, never a crash of the interpreter
            assert child.code == 0 or (child.code == 99 and last and "Error" in last[0]), (
                child.code,
                child.text[-800:],
            )
            assert_whole(root)


@sizes(3, 5000)
def test_an_error_of_the_disk_in_every_call(tmp_path, request, tried):
    what = "each call on a file during a save fails once with EIO (strace): an error, each file is the old or the new, whole"
    with scenario("EIO", what, is_full(request)) as now:
        fails(now, tmp_path, "EIO", tried)


@sizes(0, 5000)
def test_a_full_disk_in_every_call(tmp_path, request, tried):
    what = "the same with ENOSPC"
    with scenario("ENOSPC", what, is_full(request)) as now:
        fails(now, tmp_path, "ENOSPC", tried)
