"""Mean intersection over union of a segmenter over a dataset: every image once, whatever the number of processes."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from convnext.data.images import ImageError, unreadable
from convnext.data.loader import Samples
from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.runtime.evaluation import evaluate_batches
from convnext.runtime.world import World
from convnext.segmentation.labels import IGNORED
from convnext.segmentation.sliding import predict_labels

READERS = 2  # threads that decode images ahead of the network
AHEAD = 4  # images that wait


class LabelledImages(Samples, Protocol):
    """The dataset that evaluation takes; `target` gives (H, W) uint8 labels 0..K-1, 255 where ignored."""

    classes: list[str]


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
        """Count labels and predictions, both (H, W) of integers; pixels whose label is 255 do not count.

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
        """Sum over all processes."""
        return Result(world.sum(self.matrix.clone()).view(self.num_classes, -1).cpu().numpy())


@torch.inference_mode()
def evaluate(
    models: dict[str, nn.Module],
    dataset: LabelledImages,
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
        dataset: of which process r of n takes images r, r + n, ..; targets have the size of their images.
        pre, mode, options: see `predict_labels`.
        precision: fp32, bf16 or fp16.
        interrupted, progress: see `evaluate_batches`; a batch is one image.

    Raises:
        Interrupted: `interrupted()` returned True.
        ImageError: an image of any process cannot be read; evaluation never leaves one out.
        ConvNextError: a target does not fit its image or the classes.
    """
    matrices = {label: Confusion(len(dataset.classes), world.device) for label in models}

    def step(sample: Future | None) -> int:
        if sample is None:
            return 0
        image, target = sample.result()
        target = torch.tensor(target, device=world.device)
        for label, model in models.items():
            matrices[label].add(target, predict_labels(model, image, pre, mode, precision=precision, **options))
        return 1

    mine, most = range(world.rank, len(dataset), world.size), -(-len(dataset) // world.size)
    indices = [*mine, *[None] * (most - len(mine))]
    with closing(_read_ahead(dataset, indices)) as samples:
        evaluate_batches(models, samples, step, world, interrupted, progress)
    return {label: matrix.result(world) for label, matrix in matrices.items()}


def _read_ahead(dataset: LabelledImages, indices: Sequence[int | None]) -> Generator[Future | None]:
    """Yield futures of (image, target) in this order, decoded a few ahead; None for None."""

    def read(i: int) -> tuple[Image, np.ndarray]:
        try:
            image, target = dataset.image(i), dataset.target(i)
        except ImageError as error:
            raise unreadable(str(error)) from error
        if target.shape != (image.height, image.width):
            raise ConvNextError(
                f"{dataset.name(i)} has {image.width} x {image.height} pixels and its target "
                f"{target.shape[1]} x {target.shape[0]}: they must be the same. Repair or remove it."
            )
        return image, target

    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future | None] = deque()
        try:
            for i in indices:
                waiting.append(None if i is None else pool.submit(read, i))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in filter(None, waiting):
                future.cancel()
