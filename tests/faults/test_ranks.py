"""Ranks of a run that are killed, or hang, while others wait for them."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from processes import Child, command, survived
from scenario import is_full, scenario, sizes
from test_kills import CLASSIFIER, assert_same, assert_tidy, recorded, result

TWO = [*CLASSIFIER, "--epochs", "1"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ranks(out: Path, before: Callable[[], object] = lambda: None, words: Sequence = ()) -> list[Child]:
    """Both processes of a training, joined as torchrun joins them."""
    port = free_port()

    def join(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        before()

    return [
        command([*TWO, *words, "--out", out], out.parent / f"output{rank}", partial(join, rank)) for rank in range(2)
    ]


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


STALLED = 6.0
"""Seconds that the others wait for a process in these tests."""


@sizes(0, 6)
def test_one_of_two_ranks_hangs(both, tmp_path, request, tried):
    what = (
        f"one of the two processes of a run is stopped (SIGSTOP) and never goes on, with --runtime.timeout {STALLED / 60:g}: the "
        f"other says so within {STALLED:g} s and 6 s more, exit 2; both continue to the same bits"
    )
    with scenario("stalled rank", what, is_full(request)) as now:
        longest = 0.0
        for seed in range(tried):
            with now.case(f"rank {seed % 2}, seed {seed}"):
                out, chance = tmp_path / str(seed) / "run", random.Random(seed)
                out.parent.mkdir()
                processes = ranks(out, words=["--runtime.timeout", STALLED / 60])
                at = chance.randrange(1, 10)
                processes[0].until(lambda out=out, at=at: recorded(out) >= at)
                stalled, left = processes[seed % 2], processes[1 - seed % 2]
                stalled.signal(signal.SIGSTOP)
                began = time.monotonic()
                try:
                    said = survived(left, 2)
                finally:
                    stalled.kill()
                longest = max(longest, time.monotonic() - began)
                assert "Another of the run's 2 processes did not answer for 0.1 minutes (--runtime.timeout)" in said
                assert time.monotonic() - began < STALLED + 6
                finished(ranks(out))
                assert_same(both, result(out))
                assert_tidy(out)
        now.note = f"at most {longest:.1f} s"
