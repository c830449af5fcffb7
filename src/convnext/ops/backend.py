"""Which implementation an operation takes: the readable reference, or Triton kernels.

By itself (`auto`) an operation takes Triton on a CUDA device that the kernels were written for, and the reference
everywhere else: CPU, meta, older devices, fp64, odd channel counts, export.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError, nearest

BACKENDS = ("auto", "reference", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)  # the first with bf16

_chosen: ContextVar[str] = ContextVar("convnext_backend", default="auto")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Take this implementation inside the `with`: "auto", "reference" or "triton" (which also runs on a CPU under
    TRITON_INTERPRET=1, slowly, for tests). Each thread has its own choice.

    A function compiled by torch.compile keeps the choice with which it was first traced.
    Raises ConvNextError for another name; an operation raises it where "triton" is not possible.
    """
    if name not in BACKENDS:
        raise ConvNextError(f"Backend {name!r} is unknown; use one of {', '.join(BACKENDS)}.{nearest(name, BACKENDS)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def use(x: Tensor) -> bool:
    """Whether an operation on x (..., C) takes Triton; a plain bool, a constant to torch.compile.

    Raises ConvNextError where Triton was demanded and cannot run, with the reason.
    """
    name = chosen()
    if name == "reference":
        return False
    why = obstacle(x)
    if why and name == "triton":
        raise ConvNextError(
            f'backend("triton") was demanded, but {why}. Use backend("auto") to take the reference there.'
        )
    if name == "auto" and (x.device.type != "cuda" or torch.compiler.is_exporting()):
        return False  # an exported graph is for other runtimes, which do not know our operators
    return not why


def watched(module: nn.Module) -> bool:
    """Whether only a call of the module does what it is to do: somebody put a hook on it, or another `forward`."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(len(found) > 0 for found in hooks) or "forward" in module.__dict__


def obstacle(x: Tensor) -> str:
    """What keeps Triton from computing on x, as half a sentence; empty if nothing does."""
    if x.dtype not in DTYPES:
        return f"the tensor is {x.dtype}; the kernels take float32, float16 and bfloat16"
    if x.shape[-1] % 8:
        return f"the tensor has {x.shape[-1]} channels; the kernels take multiples of 8"
    return device_obstacle(x.device.type, x.device.index)


def constant(function: Callable) -> Callable:
    """What `torch.compiler.assume_constant_result` does, without importing the compiler: seconds of every command."""
    function._dynamo_marked_constant = True
    return function


@constant
def chosen() -> str:
    """The name of the innermost `backend`."""
    return _chosen.get()


@constant
def device_obstacle(kind: str, index: int | None) -> str:
    """What keeps Triton from running on a device, as half a sentence; empty if nothing does."""
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
    """Whether there is a Triton."""
    return importlib.util.find_spec("triton") is not None


@cache
def capability(index: int | None) -> tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(index)
