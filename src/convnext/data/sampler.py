"""The order of samples: a permutation per epoch that depends on (seed, epoch) only, cut into batches, ranks, micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convnext.data.balance import Resampled
from convnext.data.blocks import Blocks
from convnext.seeding import derive

Key = tuple[int, ...]
"""(epoch, index), or (epoch, index, n) of the n-th repetition of an image in an epoch, which has an augmentation of its own."""


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """The generator of an epoch's order."""
    return np.random.default_rng(derive(seed, "order", epoch))


def epoch_order(samples: int, seed: int, epoch: int, drawn: Resampled | Blocks | None = None) -> np.ndarray:
    """A permutation of range(samples), or what `drawn` makes of it; (samples,) int64."""
    generator = epoch_generator(seed, epoch)
    return generator.permutation(samples) if drawn is None else drawn.draw(generator)


def repetitions(order: np.ndarray) -> np.ndarray:
    """(N,) int64: how often each element of `order` stands before its place."""
    by_image = np.argsort(order, kind="stable")
    new = np.diff(order[by_image], prepend=-1) != 0
    places = np.arange(len(order))
    again = np.empty_like(places)
    again[by_image] = places - np.maximum.accumulate(np.where(new, places, 0))
    return again


@dataclass(frozen=True)
class TrainBatches:
    """Keys of the images of every micro-batch of one rank, from optimizer step `start` to the end of the run.

    One stream over all epochs: loader workers live as long as the run, and prefetch across epoch boundaries. Batch s of
    an epoch is the same set of images whatever the number of ranks and of accumulation steps. The remainder that does
    not fill a batch is left out, another one in each epoch.

    `sort_by` (samples,), if given, orders the images inside each batch, so that a micro-batch holds like ones (images of
    one aspect need little padding); which images make a batch does not depend on it. `drawn`, if given, orders the images of
    an epoch otherwise than by a permutation of all.
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
    drawn: Resampled | Blocks | None = None

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = self.samples // self.total_batch
        device_batch = self.total_batch // (self.accumulation * self.world)
        share = device_batch * self.accumulation
        epoch, order, again = -1, np.empty(0, dtype=np.int64), None
        for step in range(self.start, self.total_steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = epoch_order(self.samples, self.seed, epoch, self.drawn)  # no list: four times the memory
                again = repetitions(order) if self.drawn is not None and self.drawn.repeats else None
            first = step % per_epoch * self.total_batch
            batch = np.arange(first, first + self.total_batch)  # places in the order
            if self.sort_by is not None:
                batch = batch[np.argsort(self.sort_by[order[batch]], kind="stable")]
            for begin in range(self.rank * share, (self.rank + 1) * share, device_batch):
                places = batch[begin : begin + device_batch]
                if again is None:
                    yield [(epoch, i) for i in order[places].tolist()]
                else:
                    pairs = zip(order[places].tolist(), again[places].tolist(), strict=True)
                    yield [(epoch, i, n) if n else (epoch, i) for i, n in pairs]

    def __len__(self) -> int:
        return (self.total_steps - self.start) * self.accumulation
