"""Choosing the device of a process by name, and describing it."""

import torch

from convnext.errors import ConvNextError


def choose_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The named device; `auto` is the first available of cuda, mps and cpu.

    Raises:
        ConvNextError: the device asked for is not there, or is not one of these.
    """
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in have.items() if there)
    kind = name.partition(":")[0]
    if not have.get(kind):
        there = ", ".join(k for k, v in have.items() if v)
        raise ConvNextError(
            f"The device {name!r} is not available here. This machine has: {there}. `auto` takes the best."
        )
    return torch.device(f"cuda:{local_rank}" if name == "cuda" else name)


def describe(device: torch.device) -> str:
    """The device in words, for the first lines of a run."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else str(device)
