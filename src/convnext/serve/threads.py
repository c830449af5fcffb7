"""The threads of a serving process: those that compute with several cores, and those that do with one.

OpenMP keeps a team for every thread that has computed with several cores. Once there are more threads in all teams than
cores, they sleep between any two loops, and a network has a hundred: ConvNeXt-Atto takes 22 ms then, 13 otherwise. So images
are decoded and finished by threads without a team, and a model is loaded and tried by a thread that ends.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def _compute_with(cores: int) -> None:
    """Make the current thread compute with so many; PyTorch would set it anew at its first use if it had not been asked."""
    torch.get_num_threads()
    torch.set_num_threads(cores)


def model_thread(name: str) -> ThreadPoolExecutor:
    """A thread for a model, with as many cores as the caller has."""
    return ThreadPoolExecutor(1, f"model-{name}", _compute_with, (torch.get_num_threads(),))


def image_threads() -> ThreadPoolExecutor:
    """Threads for images, a core each."""
    return ThreadPoolExecutor(max(os.cpu_count() or 1, 2), "images", _compute_with, (1,))


def in_passing(function: Callable[..., Result], *arguments: Any) -> Result:
    """What the function returns, or raises, in a thread that ends with it."""
    with ThreadPoolExecutor(1, "passing", _compute_with, (torch.get_num_threads(),)) as thread:
        return thread.submit(function, *arguments).result()
