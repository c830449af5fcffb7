"""A recording of PyTorch's operations on the CPU that behaves as a CUDA graph: for steps that are to be recorded on a GPU."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKS_THE_HOST = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")


class Through(TorchDispatchMode):
    """Every operation passes through Python, by which PyTorch chooses some others, of other last bits: to compare with."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Notes every operation with its very tensors; one whose result the host needs cannot be recorded."""

    def __init__(self):
        super().__init__()
        self.noted: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ASKS_THE_HOST:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing\nmore")
        out = func(*args, **(kwargs or {}))
        self.noted.append((func, args, kwargs or {}, out))
        return out


def recorded(work, state):
    """As `convnext.runtime.graphs.recorded`; `state()` gives the tensors that the work changes.

    Numbers of the host are those of the recording, and memory is where it was then. Nothing is done yet: what the recording
    itself has changed is put back.
    """
    before, generator = [tensor.detach().clone() for tensor in state()], torch.get_rng_state()
    operations = Operations()
    with operations:
        result = work()
    with torch.no_grad():
        for tensor, value in zip(state(), before, strict=True):
            tensor.copy_(value)
    torch.set_rng_state(generator)

    @torch.no_grad()
    def replay() -> None:
        for func, args, kwargs, out in operations.noted:
            new = func(*args, **kwargs)
            for mine, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(mine, Tensor) and mine.data_ptr() != fresh.data_ptr():
                    mine.detach().copy_(fresh)

    return replay, result
