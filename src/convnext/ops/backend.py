"""The choice among the implementations of an operation: PyTorch's own operations, or a faster form of them.

Every operation has a reference that a person can read, and `Form`s beside it: Triton kernels on a GPU, oneDNN's
operators for inference on a CPU, matrix products for tiny maps, Winograd's convolution. `Form.takes` is asked before
each use, and nothing else decides. `backend` overrides it.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from convnext.errors import ConvNextError, nearest
from convnext.ops.rule import PLAIN, constant, observed, transformed

BACKENDS = ("auto", "reference", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)  # the first with bf16

_chosen: ContextVar[str] = ContextVar("convnext_backend", default="auto")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Take this implementation of all operations inside the `with`; each thread has its own choice.

    A function compiled by torch.compile keeps the choice with which it was first traced. Traces, exports and function
    transforms get the reference in any case.

    Args:
        name: "auto": the fastest form for the tensor at hand. "reference": PyTorch's own operations, nothing else.
            "triton": the Triton kernels, also on a CPU under TRITON_INTERPRET=1 (slow, for tests).

    Raises:
        ConvNextError: another name; or later, by an operation, where "triton" is impossible.
    """
    if name not in BACKENDS:
        raise ConvNextError(f"Backend {name!r} is unknown; use one of {', '.join(BACKENDS)}.{nearest(name, BACKENDS)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@constant
def chosen() -> str:
    """The name of the innermost `backend`."""
    return _chosen.get()


@dataclass(frozen=True)
class Form:
    """A faster implementation of one operation. Its functions get the tensor and what else was given to `takes`."""

    name: str
    pays: Callable[..., bool]
    """True where "auto" takes it: it is faster, and needed. Cheap; asked first."""
    cannot: Callable[..., str] = lambda *given: ""
    """The reason why it cannot compute this, as half a sentence; empty if it can."""
    compiles: bool = False
    """torch.compile may put it into a graph."""
    counted: bool = False
    """Its operators have formulas for `torch.utils.flop_counter`."""

    def takes(self, x: Tensor, *given) -> bool:
        """True if the operation on x takes this form; a constant to torch.compile.

        Raises:
            ConvNextError: the form was demanded by name and cannot compute this.
        """
        name = chosen()
        demanded = name == self.name
        if not demanded and (name != "auto" or type(x) not in PLAIN or not self.pays(x, *given)):
            return False
        if torch.compiler.is_compiling():
            if not self.compiles or torch.compiler.is_exporting() or transformed():
                return False
        elif type(x) not in PLAIN or observed(self.counted):
            return False
        why = self.cannot(x, *given)
        if why and demanded:
            raise ConvNextError(
                f'backend("{name}") was demanded, but {why}. Use backend("auto") to take the reference there.'
            )
        return not why


def obstacle(x: Tensor) -> str:
    """The reason why Triton cannot compute on x (..., C), as half a sentence; empty if it can."""
    if x.dtype not in DTYPES:
        return f"the tensor is {x.dtype}; the kernels take float32, float16 and bfloat16"
    if x.shape[-1] % 8:
        return f"the tensor has {x.shape[-1]} channels; the kernels take multiples of 8"
    return device_obstacle(x.device.type, x.device.index)


TRITON = Form("triton", pays=lambda x: x.device.type == "cuda", cannot=obstacle, compiles=True, counted=True)


@constant
def device_obstacle(kind: str, index: int | None) -> str:
    """The reason why Triton cannot run on a device, as half a sentence; empty if it can."""
    if not installed():
        return "Triton is not installed"
    if kind == "cuda":
        found = capability(index)
        return (
            "" if found >= CAPABILITY else f"the device has compute capability {found}; the kernels need {CAPABILITY}"
        )
    if kind == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return "" if interpreted else "the tensor is on the CPU, where Triton runs under TRITON_INTERPRET=1 only"
    return f"the tensor is on {kind}; the kernels run on CUDA devices"


@cache
def installed() -> bool:
    """True if Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@cache
def capability(index: int | None) -> tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(index)
