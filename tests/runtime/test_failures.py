"""What follows the death of another process is one paragraph with the cause and the remedy."""

import pytest
import torch

from convnext.errors import ConvNextError
from convnext.runtime.failures import explained
from convnext.runtime.world import World

ALONE, OF_TWO = World(torch.device("cpu")), World(torch.device("cpu"), size=2)


@pytest.mark.parametrize(
    ("world", "error", "words"),
    [
        (ALONE, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "probably for memory"),
        (ALONE, RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "--runtime.workers"),
        (ALONE, RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. .."), "/dev/shm"),
        (ALONE, RuntimeError("DataLoader workers cannot start: no shared memory ([Errno 28] ..)"), "/dev/shm"),
        (
            ALONE,
            RuntimeError("Caught .. in DataLoader worker process 0. .. unable to allocate shared memory(shm) .."),
            "/dev/shm",
        ),
        (ALONE, ConnectionResetError(104, "Connection reset by peer"), "data loading process was killed"),
        (ALONE, EOFError(), "data loading process was killed"),
        (OF_TWO, RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [..]"), "2 processes"),
        (OF_TWO, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "probably for memory"),
        (
            OF_TWO,
            RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 6000ms for recv"),
            "did not answer",
        ),
    ],
)
def test_the_cause_and_what_to_do(world, error, words):
    with pytest.raises(ConvNextError, match=words) as explanation, explained(world):
        raise error
    assert "Give the same command to continue" in str(explanation.value)
    assert explanation.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "The device is out of memory"),
        (
            RuntimeError("[..] DefaultCPUAllocator: can't allocate memory: you tried to .."),
            "This machine is out of memory",
        ),
    ],
)
def test_memory_that_is_used_up_names_the_options_that_help(error, words):
    with pytest.raises(ConvNextError, match=words) as explanation, explained(ALONE):
        raise error
    for option in ("--device-batch", "--runtime.eval-batch", "--runtime.recompute-stages"):
        assert option in str(explanation.value)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape mismatch"), FileNotFoundError(2, "No such file", "a.jpg"), OSError(28, "No space left")],
)
@pytest.mark.parametrize("world", [ALONE, OF_TWO])
def test_every_other_error_is_left_as_it_is(world, error):
    with pytest.raises(type(error)) as same, explained(world):
        raise error
    assert same.value is error


def test_one_of_the_processes_that_are_left_speaks(monkeypatch):
    monkeypatch.setattr(World, "is_first", lambda self, event: False)
    with pytest.raises(SystemExit) as ended, explained(OF_TWO):
        raise RuntimeError("Connection closed by peer")
    assert ended.value.code == 2
