"""The processes of a run and the device of this one: started by torchrun, or a single process."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from convnext.errors import ConvNextError
from convnext.runtime.device import choose_device

Result = TypeVar("Result")
ANSWER = 2.0  # seconds within which the store, which one of the processes holds, is asked


@dataclass(frozen=True)
class World:
    """This process among `size` of them, `local_size` on this machine; `timeout`: minutes that they wait for each other."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1
    timeout: float = 30.0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """True if `flag` is set on any process; computed on the host, so that the device need not wait."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor([int(flag)])).item())

    def raise_first(self, error: ConvNextError | None) -> None:
        """Raise the error of the lowest rank that has one, on all processes, so that none waits for the others."""
        if not self.any(error is not None):
            return
        errors: list[ConvNextError | None] = [error]
        if self.size > 1:
            errors = [None] * self.size
            dist.all_gather_object(errors, error)
        raise next(each for each in errors if each is not None)

    def is_first(self, event: str) -> bool:
        """True in the process that asks first; works when some of the processes are dead or hang."""
        if self.size == 1:
            return True
        order: list[int] = []

        def ask() -> None:
            with suppress(Exception):
                order.append(dist.distributed_c10d._get_default_store().add(f"convnext/{event}", 1))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(ANSWER)
        return order in ([], [1])  # the store died, or hangs, with its process: better said twice than never

    def from_first_here(self, function: Callable[[], Result]) -> Result:
        """The result of `function`, called by the first process of this machine only; an error for people ends all of them."""
        if self.size == 1:
            return function()
        first = self.rank - self.rank % self.local_size
        mine: Result | None = None
        error: ConvNextError | None = None
        answers: list[Any] = [None] * self.size
        if self.rank == first:
            try:
                mine = function()
            except ConvNextError as raised:
                error = raised
        self.raise_first(error)
        dist.all_gather_object(answers, mine)
        return answers[first]

    def on_main(self, function: Callable[[], Result]) -> Result:
        """The result of `function`, called by the main process only; an error for people ends all of them."""
        if self.size == 1:
            return function()
        answer: list = [None, False]
        try:
            if self.is_main:
                answer[0] = function()
        except ConvNextError:
            answer[1] = True
            raise
        finally:
            dist.broadcast_object_list(answer, device=torch.device("cpu"))
        if answer[1]:
            raise SystemExit(2)  # the main process says why
        return answer[0]


def start(device: str = "auto", timeout: float = 30.0) -> World:
    """Join the process group that torchrun's environment describes, and choose this process's device.

    Operations that wait for another process fail after `timeout` minutes.

    Raises:
        ConvNextError: the device asked for is not there.
    """
    rank, size, local_rank, local_size = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout))
    return World(chosen, rank, size, local_size, timeout)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def joined(device: str = "auto", timeout: float = 30.0) -> Iterator[World]:
    """`start`, and `stop` at the end."""
    try:
        yield start(device, timeout)
    finally:
        stop()
