"""Batches for training and evaluation, from a dataset, a transform and an order, with or without worker processes."""

import atexit
import ctypes
import errno
import gc
import multiprocessing
import multiprocessing.util  # registers its own end of process first
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from convnext.data.images import ImageError
from convnext.data.pixels import pad_to_multiple
from convnext.data.regions import RegionTransform
from convnext.data.sampler import Key, TrainBatches
from convnext.seeding import derive, seed_cpu

M_MMAP_THRESHOLD = -3  # of malloc.h
Targets = Tensor | list[dict[str, Tensor]]


class Samples(Protocol):
    """The one interface of the datasets of all tasks, which loaders and evaluations use."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """A stable id of image i."""
        ...

    def image(self, i: int) -> Image:
        """Image i, mode RGB; raises ImageError if it cannot be decoded."""
        ...

    def target(self, i: int) -> Any:
        """Ground truth of image i: a label, boxes, a mask; raises ImageError if it cannot be decoded."""
        ...


@dataclass
class Batch:
    """images (B,3,H,W) float, or uint8 that the task finishes on the device; targets: labels (B,) or (B,H,W) int64, or a
    dict of tensors per image; indices: B positions in the dataset; unreadable: what could not be decoded; erase (B,5) int64:
    rectangles that are still to be erased (`classification.augment`), which stay in the host's memory."""

    images: Tensor
    targets: Targets
    indices: list[int]
    unreadable: list[str]
    erase: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._moved(Tensor.pin_memory)

    def tensors(self) -> list[Tensor]:
        """All that is on the device."""
        targets = [self.targets] if isinstance(self.targets, Tensor) else [t for d in self.targets for t in d.values()]
        return [self.images, *targets]

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        targets = self.targets
        if isinstance(targets, Tensor):
            targets = move(targets)
        else:
            targets = [{key: move(value) for key, value in target.items()} for target in targets]
        return Batch(move(self.images), targets, self.indices, self.unreadable, self.erase)


class ImageOnly:
    """A transform of (image, target) that changes the image and leaves the target as it is."""

    def __init__(self, transform: Callable[[Image], Tensor]):
        self.transform = transform

    def __call__(self, image: Image, target: Any) -> tuple[Tensor, Any]:
        return self.transform(image), target


@dataclass
class TrainSamples(Dataset):
    """Samples by key (epoch, index, ..), each augmented as a pure function of the seed and its key.

    An unreadable image is replaced by another one, chosen by the same rule, and reported with the batch. A `RegionTransform`
    leaves the targets as they are, and of the images sees only the part that it asks for (`samples.region`).
    """

    samples: Any  # `Samples`, and with a RegionTransform also `region`
    transform: Callable[[Image, Any], tuple[Any, Any]] | RegionTransform
    seed: int

    def __getitem__(self, key: Key):
        index = key[1]
        unreadable = []
        for attempt in range(20):
            try:
                return *self._augmented(key, index), index, unreadable
            except ImageError as error:
                unreadable.append(str(error))
                index = derive(self.seed, "substitute", *key, attempt) % len(self.samples)
        raise ImageError(f"20 images in a row could not be read; the last: {unreadable[-1]}")

    def _augmented(self, key: Key, index: int) -> tuple[Any, Any]:
        if isinstance(self.transform, RegionTransform):
            target = self.samples.target(index)
            seed_cpu(self.seed, "sample", *key)
            return self.transform(self.samples.region(index, self.transform.region)), target
        image, target = self.samples.image(index), self.samples.target(index)
        seed_cpu(self.seed, "sample", *key)
        return self.transform(image, target)


@dataclass
class EvalSamples(Dataset):
    """Labelled images by index; an unreadable image becomes an error that names it, raised by the loader's consumer."""

    images: Samples
    transform: Callable[[Image], Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        try:
            return self.transform(self.images.image(index)), self.images.target(index), index, []
        except ImageError as error:
            return None, 0, index, [str(error)]


def collate(samples: list) -> Batch:
    """Images of one size with labels: numbers, or tensors of one shape each."""
    images, labels, indices, unreadable = zip(*samples, strict=True) if samples else ((), (), (), ())
    readable = [image for image in images if image is not None]
    maps = [label for label in labels if isinstance(label, Tensor)]  # an unreadable image has none
    return Batch(
        default_collate(readable) if readable else torch.empty(0),  # which in a loader stacks into shared memory
        torch.stack(maps) if maps else torch.tensor(labels, dtype=torch.int64),
        list(indices),
        [message for messages in unreadable for message in messages],
    )


def collate_padded(samples: list) -> Batch:
    """Images of different sizes with a dict of tensors each, padded to one size; `masks` (n, H, W) are padded alike."""
    images, targets, indices, unreadable = zip(*samples, strict=True)
    batch = pad_to_multiple(list(images))
    for image, target in zip(images, targets, strict=True):
        right, below = (batch.shape[axis] - image.shape[axis] for axis in (-1, -2))
        if "masks" in target:
            target["masks"] = F.pad(target["masks"], (0, right, 0, below))
    return Batch(batch, list(targets), list(indices), [message for messages in unreadable for message in messages])


def _worker_init(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach every process of the group; the main process decides when workers end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = _unless_broken_off
    _keep_memory_shared()


def _unless_broken_off(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show what a thread of a loader raised, unless it is that the main process, which says why it ends, broke a transfer off."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _keep_memory_shared() -> None:
    """Keep a forked process small, which shares all that it does not write to with its parent.

    A garbage collection would write into every object (100 MB of a process that has imported PyTorch). And glibc, after the
    first batch, takes buffers of its size from the heap, where batches leave holes: it grows by 100 MB in a thousand images.
    Those of images at the model's size stay in the heap: fresh pages for each would cost a tenth of a loader's time.
    """
    gc.freeze()
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 256 * 1024)  # which then no longer rises


def kill_loaders() -> None:
    """Kill the loaders that are left when a command or Python ends, which would wait for them: they ignore the SIGTERM that
    it sends, and PyTorch gives one that hangs seconds."""
    children = [child for child in multiprocessing.active_children() if child.daemon]
    if children and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error for each
    for child in children:
        child.kill()


def share(batch: Any) -> Any:
    """Move a batch's tensors to shared memory, in place: where there is none left, it is an error here, which reaches the main
    process, and not in the thread that sends them, where PyTorch would lose it and wait for ever."""
    if isinstance(batch, Tensor):
        return batch.share_memory_()
    parts = vars(batch).values() if isinstance(batch, Batch) else batch.values() if isinstance(batch, dict) else batch
    if isinstance(batch, Batch | dict | list | tuple):
        for part in parts:
            share(part)
    return batch


@dataclass
class _Shared:
    """A collate function whose batches are in shared memory, where a loader calls it."""

    collate: Callable

    def __call__(self, samples: list) -> Any:
        batch = self.collate(samples)
        return share(batch) if get_worker_info() else batch


class _Loader(DataLoader):
    def __iter__(self):
        try:
            return super().__iter__()
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename:
                raise
            raise RuntimeError(f"DataLoader workers cannot start: no shared memory ({error})") from error


@cache
def _end_with_process() -> None:
    atexit.register(kill_loaders)  # after that of multiprocessing, so it runs before it


def make_loader(dataset: Dataset, batches: Iterable, workers: int, pin: bool, collate: Callable) -> DataLoader:
    """Loader of the items of `dataset` in these batches of keys; workers leave SIGINT and SIGTERM to the main process."""
    if workers:
        _end_with_process()
    return _Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=_Shared(collate),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_worker_init,
        prefetch_factor=4 if workers else None,
    )


def train_loader(
    samples: TrainSamples, batches: TrainBatches, workers: int, pin: bool, collate: Callable[[list], Batch] = collate
) -> DataLoader:
    """All micro-batches of one rank to the end of the run."""
    return make_loader(samples, batches, workers, pin, collate)


def eval_loader(samples: EvalSamples, batch: int, workers: int, pin: bool, rank: int = 0, world: int = 1) -> DataLoader:
    """Every image exactly once over all ranks, none twice: rank r takes r, r + world, ..

    Every rank has equally many batches, so that they can agree on things between batches; the last may be empty.
    """
    mine, most = range(rank, len(samples), world), -(-len(samples) // world)
    return make_loader(samples, [mine[i : i + batch] for i in range(0, most, batch)], workers, pin, collate)


def default_workers(device: torch.device, devices_here: int) -> int:
    """For a GPU all cores but the one of the process that trains; half the cores when the model trains on them too."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return cores // 2 // devices_here
    return max(1, (cores - devices_here) // devices_here)
