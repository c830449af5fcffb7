"""Processes that are killed while others wait for them: ranks of a run, and loaders of a rank."""

import os
import random
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from processes import Child, command, survived
from scenario import is_full, scenario, sizes
from test_kills import CLASSIFIER, assert_same, assert_tidy, children, continued, recorded, result

from convnext.cli import main

TWO = [*CLASSIFIER, "--epochs", "1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of one process that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main.run([*CLASSIFIER, "--out", str(out)]) == 0
    return out


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ranks(out: Path, before: Callable[[], object] = lambda: None) -> list[Child]:
    """Both processes of a training, joined as torchrun joins them."""
    port = free_port()

    def join(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        before()

    return [command([*TWO, "--out", out], out.parent / f"output{rank}", partial(join, rank)) for rank in range(2)]


def finished(processes: list[Child]) -> None:
    for each in processes:
        survived(each, 0)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict:
    """The result of two processes that nobody interrupted."""
    out = tmp_path_factory.mktemp("both") / "run"
    finished(ranks(out))
    return result(out)


@sizes(0, 8)
def test_one_of_two_ranks_is_killed(both, tmp_path, request, tried):
    what = "`kill -9` of one of the two processes of a run (Gloo): the other says so, exit 2; both continue to the same bits"
    with scenario("killed rank", what, is_full(request)) as now:
        for seed in range(tried):
            with now.case(f"rank {seed % 2}, seed {seed}"):
                out, chance = tmp_path / str(seed) / "run", random.Random(seed)
                out.parent.mkdir()
                processes = ranks(out)
                at = chance.randrange(1, 10)
                processes[0].until(lambda out=out, at=at: recorded(out) >= at)
                dead, left = processes[seed % 2], processes[1 - seed % 2]
                dead.kill()
                assert "Another of the run's 2 processes was killed" in survived(left, 2)
                finished(ranks(out))
                assert_same(both, result(out))
                assert_tidy(out)


@sizes(0, 4)
def test_killed_workers(whole, tmp_path, request, tried):
    with scenario(
        "killed worker",
        "a data loading process is killed: one sentence, exit 2, continued to the same bits",
        is_full(request),
    ) as now:
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                out = tmp_path / str(seed) / "run"
                out.parent.mkdir()
                child = command([*CLASSIFIER, "--runtime.workers", "2", "--out", out], out.parent / "output")
                child.until(lambda out=out, seed=seed, child=child: recorded(out) >= 3 * seed and bool(children(child)))
                if workers := children(child):
                    os.kill(workers[seed % len(workers)], signal.SIGKILL)
                assert "A data loading process was killed" in survived(child, 2)
                continued(CLASSIFIER, out, result(whole))
