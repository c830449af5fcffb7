"""Failures that are nobody's mistake, in words: another process of the run was killed or hangs, memory is used up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from convnext.errors import ConvNextError
from convnext.runtime.world import World

CONTINUE = "Give the same command to continue from the last checkpoint."
TRAINING_MEMORY = (
    "Give a smaller --device-batch (a step still sees --total-batch images), for an evaluation a smaller --runtime.eval-batch, or "
    "on a GPU --runtime.recompute-stages 0 1; otherwise the same command, which continues from the last checkpoint."
)
INFERENCE_MEMORY = "Give a smaller --batch or --image-size (batch= in Python), --precision bf16, or --device cpu."


@dataclass(frozen=True)
class Advice:
    """Advice for a memory that is used up: what helps, the options that are meant by it, and how to go on."""

    memory: str
    workers: str
    batch: str
    then: str


TRAINING = Advice(TRAINING_MEMORY, "--runtime.workers", "--device-batch", CONTINUE)
EVALUATION = Advice(INFERENCE_MEMORY, "--workers", "--batch", "Give the same command again.")
_OF_THE_GROUP = ("closed by peer", "reset by peer", "gloo", "NCCL", "Connection refused", "Broken pipe")


@contextmanager
def explained(world: World, advice: Advice = TRAINING) -> Iterator[None]:
    """Turn the errors that follow the death of another process into one paragraph.

    Raises:
        ConvNextError: in the first of the processes that are left; the others exit with code 2 and say nothing.
    """
    try:
        with memory_explained(advice.memory):
            yield
    except (RuntimeError, EOFError, OSError) as error:
        message = _explanation(error, world, advice)
        if message is None:
            raise
        if not world.is_first("failure"):
            raise SystemExit(2) from error
        raise ConvNextError(message) from error


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Turn PyTorch's error about memory that is used up, of a GPU or of the host, into one with what to do.

    Raises:
        ConvNextError: out of memory; it ends with `advice`.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        on_host = "DefaultCPUAllocator" in text and "allocate memory" in text
        if not (isinstance(error, torch.OutOfMemoryError) or on_host or "CUDA out of memory" in text):
            raise
        where = "This machine" if on_host else "The device"
        raise ConvNextError(f"{where} is out of memory ({text.strip().splitlines()[0][:200]}). {advice}") from error


def hung(world: World, where: str) -> str:
    """Say that the data, or another process, did not answer for the world's timeout."""
    return (
        f"Nothing came for {world.timeout:g} minutes (--runtime.timeout) in {where}: a data loading process or a file system "
        "hangs. The state is saved: look whether the images can be read, and give the same command to continue."
    )


def _explanation(error: Exception, world: World, advice: Advice) -> str | None:
    text = str(error)
    if "DataLoader worker" in text and ("Bus error" in text or "shared memory" in text):
        return (
            "A data loading process ran out of shared memory (/dev/shm). Give the container more of it, or use fewer "
            f"processes with {advice.workers}; 0 loads in the main process. {advice.then}"
        )
    # a dead worker is met as a failed connection too, which unlike an unreadable file has no name
    unnamed = isinstance(error, EOFError | ConnectionError | FileNotFoundError) and not getattr(error, "filename", None)
    if ("DataLoader worker" in text and ("killed" in text or "exited" in text)) or (unnamed and world.size == 1):
        return (
            f"A data loading process was killed, probably for memory: use fewer with {advice.workers}, or a smaller "
            f"{advice.batch}. {advice.then}"
        )
    if world.size > 1 and "Timed out" in text:
        return (
            f"Another of the run's {world.size} processes did not answer for {world.timeout:g} minutes (--runtime.timeout). It "
            f"may still be there: end it. {advice.then}"
        )
    if world.size > 1 and (unnamed or any(words in text for words in _OF_THE_GROUP)):
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        return f"Another of the run's {world.size} processes was killed or has failed ({first}). {advice.then}"
    return None
