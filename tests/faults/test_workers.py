"""Data loading processes that are killed, end, hang, or have no shared memory left."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from processes import Child, command, survived
from scenario import is_full, scenario, sizes
from test_kills import CLASSIFIER, children, continued, recorded, result

from convnext.cli import main

WORKERS = [*CLASSIFIER, "--runtime.workers", "2"]
HUNG = 3.0
"""Seconds that a run waits for its data in these tests."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main.run([*CLASSIFIER, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def whole(finished) -> dict:
    return result(finished)


def training(out: Path, seed: int, words: list, before: Callable[[], object] = lambda: None) -> tuple[Child, int]:
    """A run with two loaders that is some steps on, and the number of one of its loaders."""
    out.parent.mkdir()
    child = command([*WORKERS, *words, "--out", out], out.parent / "output", before)
    child.until(lambda: recorded(out) >= 3 * seed and bool(children(child)))
    found = children(child)
    assert found, child.text
    return child, found[seed % len(found)]


@sizes(0, 4)
def test_killed_workers(whole, tmp_path, request, tried):
    what = "a data loading process is killed: one sentence, exit 2, continued to the same bits"
    with scenario("killed worker", what, is_full(request)) as now:
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                out = tmp_path / str(seed) / "run"
                child, loader = training(out, seed, [])
                os.kill(loader, signal.SIGKILL)
                assert "A data loading process was killed" in survived(child, 2)
                continued(CLASSIFIER, out, whole)


def ends(code: int, at: int) -> None:
    """Loaders of this process, which are forked from it, end with a code at their sample number `at`."""
    from convnext.data import loader

    real, calls, mine = loader.seed_cpu, [0], os.getpid()

    def deadly(*words):
        calls[0] += os.getpid() != mine
        return os._exit(code) if calls[0] == at else real(*words)

    loader.seed_cpu = deadly


@sizes(0, 4)
def test_workers_that_end_by_themselves(whole, tmp_path, request, tried):
    what = "a data loading process ends with code 0 or 1, as some decoders do: one sentence, exit 2, continued to the same bits"
    with scenario("dead worker", what, is_full(request)) as now:
        for number, (code, at) in enumerate([(0, 700), (1, 700), (0, 1), (1, 1)][:tried]):
            with now.case(f"code {code}, sample {at}"):
                out = tmp_path / str(number) / "run"
                out.parent.mkdir()
                child = command([*WORKERS, "--out", out], out.parent / "output", partial(ends, code, at))
                assert "A data loading process was killed" in survived(child, 2)
                continued(CLASSIFIER, out, whole)


def evaluates_until(number: int, at: int) -> None:
    """Loaders of this process get a signal at their held-out image number `at`."""
    from convnext.data.loader import EvalSamples

    real, calls, mine = EvalSamples.__getitem__, [0], os.getpid()

    def deadly(samples, index):
        calls[0] += os.getpid() != mine
        if calls[0] == at:
            os.kill(os.getpid(), number)
        return real(samples, index)

    EvalSamples.__getitem__ = deadly


@sizes(0, 4)
def test_workers_of_evaluate(finished, tmp_path, request, tried):
    what = (
        "`evaluate` whose data loading process is killed: one sentence with its own options, exit 2; or hangs, and Ctrl-C comes: "
        "exit 130 within 3 s"
    )
    cases = [(signal.SIGKILL, 1), (signal.SIGSTOP, 20), (signal.SIGKILL, 20), (signal.SIGSTOP, 1)]
    with scenario("worker of evaluate", what, is_full(request)) as now:
        for number, at in cases[:tried]:
            with now.case(f"{number.name} {at}"):
                argv = ["evaluate", finished, "--workers", "1", "--batch", "10"]
                child = command(argv, tmp_path / "output", partial(evaluates_until, number, at))
                if number == signal.SIGKILL:
                    said = survived(child, 2)
                    assert "A data loading process was killed" in said
                    assert "with --workers, or a smaller --batch. Give the same command again." in said
                    continue
                child.until(lambda child=child: any(state(pid) == "T" for pid in children(child)))
                time.sleep(0.5)  # it now waits
                began = time.monotonic()
                os.kill(child.pid, signal.SIGINT)
                try:
                    survived(child, 130)
                    assert time.monotonic() - began < 3
                finally:
                    child.kill()  # the loader, which Python kills at its end, but not where a fork is left by os._exit


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def left_alone(child: Child, loader: int) -> str:
    """The run gives up after its timeout."""
    return survived(child, 2)


def terminated(child: Child, loader: int) -> str:
    """SIGTERM ends the run at once."""
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGTERM)
    return survived(child, 143)


def awake_again(child: Child, loader: int) -> str:
    """The loader comes back in time."""
    time.sleep(1)
    os.kill(loader, signal.SIGCONT)
    return survived(child, 0)


@sizes(0, 6)
def test_workers_that_hang(whole, tmp_path, request, tried):
    what = (
        f"a data loading process is stopped (SIGSTOP), with --runtime.timeout {HUNG / 60:g}: the run says so within {HUNG:g} s and "
        "3 s more, exit 2; or SIGTERM comes, exit 143 within 3 s; or the process goes on in time: nothing; all to the same bits"
    )
    ways = (
        (left_alone, "Nothing came for 0.05 minutes (--runtime.timeout)", HUNG + 3),
        (terminated, "waiting for data; the state is saved", 3.3),
        (awake_again, "Best:", 60),
    )
    with scenario("hung worker", what, is_full(request)) as now:
        for seed in range(tried):
            way, words, seconds = ways[seed % 3]
            with now.case(f"{way.__name__}, seed {seed}"):
                out = tmp_path / str(seed) / "run"
                child, loader = training(out, 1 + seed // 3, ["--runtime.timeout", HUNG / 60])
                os.kill(loader, signal.SIGSTOP)
                began = time.monotonic()
                assert words in way(child, loader)
                assert time.monotonic() - began < seconds
                continued(CLASSIFIER, out, whole)


CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


def small_shared_memory(size: str) -> None:
    """This process, and those that it starts, see a /dev/shm of this size; root is needed."""
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (
        libc.unshare(CLONE_NEWNS),
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode()),
    ):
        if done:
            raise OSError(ctypes.get_errno(), "cannot mount a small /dev/shm")


def may_mount(tmp_path: Path) -> bool:
    def work() -> int:
        small_shared_memory("64k")
        return 0

    return Child(work, tmp_path / "mount").wait() == 0


@sizes(0, 3)
def test_shared_memory_is_full(whole, tmp_path, request, tried):
    if not may_mount(tmp_path):
        pytest.skip("mounting is not allowed here")
    what = (
        "a /dev/shm of 4 KB, 64 KB, 256 KB, too small for the batches of two loading processes: one sentence, exit 2, continued "
        "without them to the same bits"
    )
    with scenario("/dev/shm full", what, is_full(request)) as now:
        for number, size in enumerate(("4k", "64k", "256k")[:tried]):
            with now.case(size):
                out = tmp_path / str(number) / "run"
                out.parent.mkdir()
                child = command([*WORKERS, "--out", out], out.parent / "output", partial(small_shared_memory, size))
                assert "ran out of shared memory (/dev/shm)" in survived(child, 2)
                continued(CLASSIFIER, out, whole)
