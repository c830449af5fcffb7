"""CUDA graphs: work that is recorded once and replayed with one launch, for work whose launches take longer than it does."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def aside(work: Callable[[], T]) -> T:
    """Do work on a stream of its own: before it is recorded libraries choose algorithms, kernels are compiled, memory is taken."""
    here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = work()
    here.wait_stream(stream)
    return result


def recorded(work: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """A function that replays `work`, which is recorded and not done yet, and its result, which each replay overwrites.

    Numbers of the host are constants of the recording; random numbers follow the device's generator, which may be seeded
    before each replay. Tensors that were made before are read and written where they are.

    Raises:
        RuntimeError: the work waits for the device, so it cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # loaders' threads may pin memory meanwhile
        result = work()
    return graph.replay, result


class Replays:
    """Calls of functions of a tensor as CUDA graphs: one for each function and shape, the oldest of `most` makes room.

    Recordings are not copied or pickled; a copy makes its own.
    """

    def __init__(self, most: int = 8):
        self.most = most
        self.kept: dict[Any, tuple[Tensor, Callable[[], None], Any]] = {}

    def __call__(self, function: Callable[[Tensor], Any], x: Tensor, name: str) -> Any:
        """What `function`, known by its name, gives for x: a tensor, or a dict of tensors, that no later call overwrites."""
        key = (name, x.shape, x.stride(), x.dtype, x.device)
        if key not in self.kept:
            static = x.clone()
            for _ in range(2):
                aside(lambda: function(static))
            if len(self.kept) >= self.most:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = (static, *recorded(lambda: function(static)))
        static, replay, answer = self.kept[key]
        static.copy_(x)
        replay()
        return {k: v.clone() for k, v in answer.items()} if isinstance(answer, dict) else answer.clone()

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most, "kept": {}}
