"""Epochs in which rare classes come more often: how many images of each class, and which, as a function of a generator."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

POWERS = {"balanced": 0.0, "sqrt": 0.5}
"""Name of a sampling -> the exponent of a class's size in its share of an epoch; 1 would be the data as it is."""


@dataclass(frozen=True)
class Resampled:
    """An epoch of N draws from N images in groups, of which group k gets a share proportional to size_k ** power.

    Every image of a group is drawn equally often up to one draw more, and which ones get that one changes with the epoch.

    Attributes:
        groups: (N,) int64, the group of each image, such as its class.
        power: 0 gives every group the same share, 0.5 the square root of its size.
    """

    groups: np.ndarray
    power: float
    repeats: ClassVar[bool] = True

    def quotas(self) -> np.ndarray:
        """Draws of each group (K,) int64; they sum to N, and a group that has images has at least one."""
        sizes = np.bincount(self.groups)
        weights = np.where(sizes > 0, sizes.astype(float) ** self.power, 0.0)
        exact = weights / weights.sum() * len(self.groups)
        quotas = np.floor(exact).astype(np.int64)
        missing = len(self.groups) - quotas.sum()
        quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1  # the largest remainders
        return quotas

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Positions of the images of one epoch, (N,) int64, in random order."""
        by_group = np.argsort(self.groups, kind="stable")
        ends = np.cumsum(np.bincount(self.groups))
        parts = []
        for members, quota in zip(np.split(by_group, ends[:-1]), self.quotas(), strict=True):
            if quota:
                times, rest = divmod(int(quota), len(members))
                parts += [np.tile(members, times), generator.permutation(members)[:rest]]
        return generator.permutation(np.concatenate(parts))
