"""Every random choice is a pure function of its keys: (seed, epoch, sample) for data, (seed, step, rank) for the rest.

No generator's state outlives a sample or a step, so nothing depends on the number of workers or processes, and a
resumed run has no state to restore.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*keys: int | str) -> int:
    """A 63-bit integer that depends on all of `keys`, and on nothing else."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_cpu(*keys: int | str) -> None:
    """Seed Python's, NumPy's and PyTorch's CPU generators, which timm's transforms draw from."""
    value = derive(*keys)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)


def seed_all(*keys: int | str) -> None:
    """`seed_cpu`, and the generators of all devices: once a step, since asking for the devices takes 0.2 ms."""
    seed_cpu(*keys)
    torch.manual_seed(derive(*keys))


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give Python's, NumPy's and PyTorch's CPU generators their states back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
