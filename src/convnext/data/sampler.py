"""The order of samples: a permutation per epoch that depends on (seed, epoch) only, cut into batches, ranks, micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convnext.seeding import derive


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(samples), (samples,) int64."""
    return np.random.default_rng(derive(seed, "order", epoch)).permutation(samples)


@dataclass(frozen=True)
class TrainBatches:
    """Keys (epoch, index) of every micro-batch of one rank, from optimizer step `start` to the end of the run.

    One stream over all epochs: loader workers live as long as the run, and prefetch across epoch boundaries. Batch s of
    an epoch is the same set of images whatever the number of ranks and of accumulation steps. The remainder that does
    not fill a batch is left out, another one in each epoch.

    `sort_by` (samples,), if given, orders the images inside each batch, so that a micro-batch holds like ones (images of
    one aspect need little padding); which images make a batch does not depend on it.
    """

    samples: int
    seed: int
    total_batch: int
    accumulation: int
    total_steps: int
    start: int = 0
    rank: int = 0
    world: int = 1
    sort_by: np.ndarray | None = None

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.samples // self.total_batch
        device_batch = self.total_batch // (self.accumulation * self.world)
        share = device_batch * self.accumulation
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.total_steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = epoch_order(self.samples, self.seed, epoch)  # no list, which takes four times the memory
            first = step % per_epoch * self.total_batch
            batch = order[first : first + self.total_batch]
            if self.sort_by is not None:
                batch = batch[np.argsort(self.sort_by[batch], kind="stable")]
            for begin in range(self.rank * share, (self.rank + 1) * share, device_batch):
                yield [(epoch, i) for i in batch[begin : begin + device_batch].tolist()]

    def __len__(self) -> int:
        return (self.total_steps - self.start) * self.accumulation
