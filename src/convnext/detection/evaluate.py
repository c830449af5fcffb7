"""Evaluation of detectors over a dataset: every image once, whatever the number of processes."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from convnext.data.images import ImageError, unreadable
from convnext.data.loader import make_loader
from convnext.data.pixels import DensePreprocess, pad_to_multiple, padded_size, scaled_size
from convnext.detection.average_precision import Result, find_evaluator, score_detections, to_coco
from convnext.detection.coco import CocoImages
from convnext.extras import require
from convnext.runtime.evaluation import evaluate_batches
from convnext.runtime.precision import autocast
from convnext.runtime.world import World

Batch = tuple[list[int], Tensor, list[tuple[int, int]], str | None]
"""indices; x (B, 3, H, W), padded; (height, width) of each image inside x; reason why an image cannot be read."""


@torch.inference_mode()
def evaluate(
    models: dict[str, nn.Module],
    dataset: CocoImages,
    pre: DensePreprocess,
    world: World,
    precision: str = "fp32",
    batch: int = 1,
    workers: int = 0,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
    reference: bool = True,
) -> dict[str, Result]:
    """Run several models (the raw and the averaged weights) over the dataset, shared among all processes.

    A model is asked `predict(x, image_sizes, output_sizes)`: x (B, 3, H, W) normalised and padded, both sizes lists of
    (height, width), of the scaled image inside x and of the original; it answers with a list of dicts of boxes (n, 4)
    x1 y1 x2 y2 and masks (n, h, w) bool on the original, scores (n,), labels (n,).

    Only images of one padded size share a batch, so what a model sees of an image does not depend on the others.

    Args:
        batch: largest number of images at once.
        interrupted, progress: see `evaluate_batches`.
        reference: pycocotools, the number to report; else faster-coco-eval, the same within 1e-3.

    Raises:
        Interrupted: `interrupted()` returned True.
        ImageError: an image of any process cannot be read; evaluation never leaves one out.
        ConvNextError: pycocotools or faster-coco-eval is not installed.
    """
    encode = require("pycocotools.mask", "detection").encode
    find_evaluator(reference)  # missing, it would end the evaluation after hours
    detections: dict[str, dict[int, list[dict]]] = {label: {} for label in models}

    def step(batch: Batch) -> int:
        indices, x, inside, error = batch
        if error:
            raise unreadable(error)
        if indices:
            x, outside = x.to(world.device, non_blocking=True), [dataset.size(i) for i in indices]
            for label, model in models.items():
                predict: Any = model.predict
                with autocast(precision, world.device):
                    predictions = predict(x, image_sizes=inside, output_sizes=outside)
                for i, prediction in zip(indices, predictions, strict=True):
                    detections[label][i] = to_coco(prediction, int(dataset.image_ids[i]), dataset.category_ids, encode)
        return len(indices)

    evaluate_batches(models, _batches(dataset, pre, world, batch, workers), step, world, interrupted, progress)
    results = {}
    for label, mine in detections.items():
        gathered = _gather(mine, world)
        results[label] = world.on_main(lambda gathered=gathered: score_detections(gathered, dataset, reference))
    return results


def _gather(mine: dict[int, list[dict]], world: World) -> list[dict]:
    """The detections of all processes, in the order of the dataset."""
    parts: list[dict] = [mine]
    if world.size > 1:
        parts = [{}] * world.size
        dist.all_gather_object(parts, mine)
    by_image = {i: detections for part in parts for i, detections in part.items()}
    return [detection for i in sorted(by_image) for detection in by_image[i]]


@dataclass
class _EvalImages(Dataset):
    """Items by index: (index, scaled and normalised image or None, reason why it cannot be read or None)."""

    images: CocoImages
    preprocess: DensePreprocess

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, str | None]:
        try:
            return i, self.preprocess(self.images.image(i)), None
        except ImageError as error:
            return i, None, str(error)


def _batches(dataset: CocoImages, pre: DensePreprocess, world: World, batch: int, workers: int) -> DataLoader:
    """This process's (indices, x (B, 3, H, W), sizes inside x, error); process r takes the images r, r + world, ..

    Every process has equally many, of which the last may be empty.
    """

    def plan(rank: int) -> list[list[int]]:
        alike = defaultdict(list)
        for i in range(rank, len(dataset), world.size):
            alike[padded_size(scaled_size(dataset.size(i), pre.short, pre.long))].append(i)
        # the largest first: if memory does not suffice, it shows at once
        groups = [alike[shape] for shape in sorted(alike, key=math.prod, reverse=True)]
        return [group[k : k + batch] for group in groups for k in range(0, len(group), batch)]

    plans = [plan(rank) for rank in range(world.size)]
    mine = plans[world.rank]
    batches = mine + [[]] * (max(map(len, plans)) - len(mine))
    return make_loader(_EvalImages(dataset, pre), batches, workers, world.device.type == "cuda", _collate)


def _collate(samples: list[tuple]) -> Batch:
    images = [image for _, image, _ in samples if image is not None]
    return (
        [i for i, _, _ in samples],
        pad_to_multiple(images) if images else torch.empty(0),
        [(image.shape[-2], image.shape[-1]) for image in images],
        next((error for _, _, error in samples if error), None),
    )
