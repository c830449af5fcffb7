"""Mean intersection over union of a segmenter over a dataset: every picture once, whatever the number of processes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from convnext.data.images import ImageError
from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.runtime.interruption import Interrupted
from convnext.runtime.world import World
from convnext.segmentation.masks import IGNORED
from convnext.segmentation.sliding import predict_labels

READERS = 2  # threads that decode pictures ahead of the network
AHEAD = 4  # pictures that wait


class LabelledPictures(Protocol):
    """What evaluation asks of a dataset."""

    classes: Sequence[str]

    def __len__(self) -> int: ...

    def name(self, i: int) -> str: ...

    def image(self, i: int) -> Image:
        """Picture i, mode RGB. Raises ImageError, which names it."""
        ...

    def target(self, i: int) -> np.ndarray:
        """(H, W) uint8: labels 0..K-1, 255 where ignored."""
        ...


@dataclass
class Result:
    """confusion: (K, K) int64 pixels, true class x predicted class."""

    confusion: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """(K,) percent: pixels that are the class and are called so, of those that are or are called so.

        nan for a class that is in no target and in no prediction; it is left out of the mean.
        """
        hit = self.confusion.diagonal()
        return _percent(hit, self.confusion.sum(1) + self.confusion.sum(0) - hit)

    @property
    def accuracy(self) -> np.ndarray:
        """(K,) percent of each class's pixels that are called so; nan for a class that is in no target."""
        return _percent(self.confusion.diagonal(), self.confusion.sum(1))

    def metrics(self) -> dict[str, float]:
        """Percent: `miou`, `macc` (means over classes) and `aacc` (of all pixels); nan if no pixel counted."""
        everything = _percent(self.confusion.trace()[None], self.confusion.sum()[None])
        means = {"miou": self.iou, "macc": self.accuracy, "aacc": everything}
        return {name: float(v[~np.isnan(v)].mean()) if not np.isnan(v).all() else np.nan for name, v in means.items()}


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(100.0 * part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


class Confusion:
    """The running matrix of one model, on its device."""

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes**2, dtype=torch.int64, device=device)

    def add(self, labels: Tensor, predictions: Tensor) -> None:
        """Both (H, W) of integers; pixels whose label is 255 do not count.

        Raises:
            ConvNextError: a label is not below the number of classes.
        """
        counted = labels != IGNORED
        pairs = labels[counted].long() * self.num_classes + predictions[counted].long()
        counts = torch.bincount(pairs, minlength=len(self.matrix))
        if len(counts) > len(self.matrix):
            raise ConvNextError(
                f"A target has the label {int(labels[counted].max())}; with {self.num_classes} classes labels are "
                f"0..{self.num_classes - 1}, and {IGNORED} where ignored. `convnext data check` examines all of them."
            )
        self.matrix += counts

    def result(self, world: World) -> Result:
        """Over all processes."""
        return Result(world.sum(self.matrix.clone()).view(self.num_classes, -1).cpu().numpy())


@torch.inference_mode()
def evaluate(
    models: dict[str, nn.Module],
    dataset: LabelledPictures,
    pre: DensePreprocess,
    world: World,
    precision: str = "fp32",
    mode: str = "slide",
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
    **options,
) -> dict[str, Result]:
    """Run several models (the raw and the averaged weights) over the dataset, adding up over all processes.

    Args:
        dataset: of which process r of n takes pictures r, r + n, ..; targets have the size of their pictures.
        pre, mode, options: see `predict_labels`.
        precision: fp32, bf16 or fp16.
        interrupted: asked before each picture, equally often on every process.
        progress: told the number of pictures after each.

    Raises:
        Interrupted: `interrupted()` said so.
        ImageError: a picture cannot be read; evaluation never leaves one out.
        ConvNextError: a target does not fit its picture or the classes.
    """
    mine, most = range(world.rank, len(dataset), world.size), -(-len(dataset) // world.size)
    modes = {label: model.training for label, model in models.items()}
    matrices = {label: Confusion(len(dataset.classes), world.device) for label in models}
    try:
        for model in models.values():
            model.eval()
        samples = _samples(dataset, mine)
        for step in range(most):
            if interrupted():
                raise Interrupted
            if step == len(mine):
                break  # a process with one picture less has been asked as often as the others
            image, target = next(samples)
            target = torch.tensor(target, device=world.device)
            for label, model in models.items():
                matrices[label].add(target, predict_labels(model, image, pre, mode, precision=precision, **options))
            progress(step + 1)
    finally:
        for label, model in models.items():
            model.train(modes[label])
    return {label: matrix.result(world) for label, matrix in matrices.items()}


def _samples(dataset: LabelledPictures, indices: Sequence[int]) -> Iterator[tuple[Image, np.ndarray]]:
    """Pictures and targets in this order, decoded a few ahead."""

    def read(i: int) -> tuple[Image, np.ndarray]:
        try:
            image, target = dataset.image(i), dataset.target(i)
        except ImageError as error:
            raise ImageError(f"{error} Evaluation leaves no image out: repair or remove it.") from error
        if target.shape != (image.height, image.width):
            raise ConvNextError(
                f"{dataset.name(i)} has {image.width} x {image.height} pixels and its target "
                f"{target.shape[1]} x {target.shape[0]}: they must be the same. Repair or remove it."
            )
        return image, target

    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque = deque()
        try:
            for i in indices:
                waiting.append(pool.submit(read, i))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
