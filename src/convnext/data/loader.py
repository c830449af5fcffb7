"""Batches for training and evaluation, from a dataset, a transform and an order, with or without worker processes."""

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convnext.data.dataset import ImageDataset
from convnext.data.images import ImageError
from convnext.data.sampler import TrainBatches
from convnext.seeding import derive, seed_cpu


@dataclass
class Batch:
    """images (B,3,H,W) float; labels (B,) int64; indices: B positions in the dataset; unreadable: what could not be decoded."""

    images: Tensor
    labels: Tensor
    indices: list[int]
    unreadable: list[str]

    def to(self, device: torch.device) -> "Batch":
        images, labels = (t.to(device, non_blocking=True) for t in (self.images, self.labels))
        return Batch(images, labels, self.indices, self.unreadable)

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices, self.unreadable)


@dataclass
class TrainSamples(Dataset):
    """Samples by key (epoch, index), each augmented as a pure function of (seed, epoch, index).

    An unreadable image is replaced by another one, chosen by the same rule, and reported with the batch.
    """

    images: ImageDataset
    transform: Callable[[Image], Tensor]
    seed: int

    def __getitem__(self, key: tuple[int, int]):
        _, index = key
        unreadable = []
        for attempt in range(20):
            try:
                image = self.images.image(index)
                break
            except ImageError as error:
                unreadable.append(str(error))
                index = derive(self.seed, "substitute", *key, attempt) % len(self.images)
        else:
            raise ImageError(f"20 images in a row could not be read; the last: {unreadable[-1]}")
        seed_cpu(self.seed, "sample", *key)
        return self.transform(image), int(self.images.labels[index]), index, unreadable


@dataclass
class EvalSamples(Dataset):
    """Samples by index; an unreadable image becomes an error that names it, raised by the loader's consumer."""

    images: ImageDataset
    transform: Callable[[Image], Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        try:
            return self.transform(self.images.image(index)), int(self.images.labels[index]), index, []
        except ImageError as error:
            return None, 0, index, [str(error)]


def collate(samples: list) -> Batch:
    images, labels, indices, unreadable = zip(*samples, strict=True) if samples else ((), (), (), ())
    readable = [image for image in images if image is not None]
    return Batch(
        torch.stack(readable) if readable else torch.empty(0),
        torch.tensor(labels, dtype=torch.int64),
        list(indices),
        [message for messages in unreadable for message in messages],
    )


def _worker_init(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach every process of the group; the main process decides when workers end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _loader(dataset: Dataset, batches: Iterable, workers: int, pin: bool) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_worker_init,
        prefetch_factor=4 if workers else None,
    )


def train_loader(samples: TrainSamples, batches: TrainBatches, workers: int, pin: bool) -> DataLoader:
    """All micro-batches of one rank to the end of the run."""
    return _loader(samples, batches, workers, pin)


def eval_loader(samples: EvalSamples, batch: int, workers: int, pin: bool, rank: int = 0, world: int = 1) -> DataLoader:
    """Every image exactly once over all ranks, none twice: rank r takes r, r + world, ..

    Every rank has equally many batches, so that they can agree on things between batches; the last may be empty.
    """
    mine, most = range(rank, len(samples), world), -(-len(samples) // world)
    return _loader(samples, [mine[i : i + batch] for i in range(0, most, batch)], workers, pin)


def default_workers(device: torch.device, devices_here: int) -> int:
    """One worker per core for a GPU, at most 8 a device; half the cores when the model trains on them too."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return cores // 2 // devices_here
    return max(1, min(8, cores // devices_here))
