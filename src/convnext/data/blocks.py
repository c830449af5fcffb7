"""Epochs that read a few shards at a time: shards in random order, images at random inside windows of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """An order for disks and networks on which random reads are slow: every image once, and never far from its neighbours.

    The shards are permuted, and the images of each `window` of them, one window after the other. A function of the generator,
    the shards' sizes and the window: no number of processes is in it.

    Attributes:
        starts: (B+1,) int64; shard b has the images starts[b] to starts[b+1] - 1.
        window: shards that are read at the same time.
    """

    starts: np.ndarray
    window: int
    repeats: ClassVar[bool] = False

    def windows(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """The shards of each window."""
        shards = generator.permutation(len(self.starts) - 1)
        for first in range(0, len(shards), self.window):
            yield shards[first : first + self.window]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Positions of the images of one epoch, (N,) int64."""
        parts = [
            np.concatenate([np.arange(int(self.starts[shard]), int(self.starts[shard + 1])) for shard in shards])
            for shards in self.windows(generator)
        ]
        for part in parts:
            generator.shuffle(part)
        return np.concatenate(parts)
