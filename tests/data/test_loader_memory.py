"""A loading process costs what it writes to: it shares the rest with the process that it was forked from."""

import gc
import os
import sys
from pathlib import Path

import pytest

from convnext.data.loader import _keep_memory_shared

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says whose memory it is")


def written() -> int:
    """Kilobytes that this process alone has written."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def in_a_fork(prepare) -> int:
    """Kilobytes that a collection of garbage costs a fork."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        prepare()
        before = written()
        gc.collect()
        os.write(write, str(written() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return int(pipe.read())


def test_a_collection_of_garbage_does_not_copy_what_was_inherited():
    objects = [{} for _ in range(300_000)]  # 30 MB, as importing PyTorch leaves them
    assert sys.getsizeof(objects) > 1_000_000
    plain, kept = in_a_fork(lambda: None), in_a_fork(_keep_memory_shared)
    assert plain > 20_000
    assert kept < plain / 2
