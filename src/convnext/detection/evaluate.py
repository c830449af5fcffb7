"""Average precision of detectors over a dataset: every picture once, whatever the number of processes."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from convnext.data.conventions import PAD_MULTIPLE
from convnext.data.images import ImageError
from convnext.data.loader import _loader
from convnext.data.pixels import DensePreprocess, pad_to_multiple, scaled_size
from convnext.detection.coco import CocoImages
from convnext.detection.coco_file import require
from convnext.errors import ConvNextError
from convnext.files import replace_text
from convnext.runtime.interruption import Interrupted
from convnext.runtime.precision import autocast
from convnext.runtime.world import World

AREAS = ("all", "small", "medium", "large")  # in the evaluators' order; borders at 32 x 32 and 96 x 96 pixels


@dataclass
class Precision:
    """Percent; nan where there is no object to find.

    `values`: ap, ap50, ap75, ap_small, ap_medium, ap_large, means over classes; `per_class`: (K,) ap of each.
    """

    values: dict[str, float]
    per_class: np.ndarray


@dataclass
class Result:
    """What was found and how good that is.

    Attributes:
        detections: in COCO's result format: image_id, category_id, bbox (x, y, w, h), score, segmentation (RLE).
        box, mask: average precision at IoU 0.5, 0.55, .. 0.95 of boxes and masks; mask is None where the model or the
            data has no masks.
        classes: K names; objects: (K,) objects to find, crowds left out.
    """

    detections: list[dict]
    box: Precision
    mask: Precision | None
    classes: list[str]
    objects: list[int]

    def metrics(self) -> dict[str, float]:
        """box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large, and mask_ap .. likewise; percent.

        0 where nothing was found, nan where there is nothing to find.
        """
        kinds = {"box": self.box} | ({"mask": self.mask} if self.mask else {})
        return {f"{kind}_{key}": value for kind, found in kinds.items() for key, value in found.values.items()}

    @property
    def per_class(self) -> list[dict]:
        """A row for each class: name, objects, box_ap and mask_ap in percent."""
        rows = []
        for k, name in enumerate(self.classes):
            row = {"name": name, "objects": self.objects[k], "box_ap": float(self.box.per_class[k])}
            rows.append(row | ({"mask_ap": float(self.mask.per_class[k])} if self.mask else {}))
        return rows

    def write_json(self, path: str | Path) -> Path:
        """Write the detections as COCO's servers and tools read them. For mask AP by size, drop `bbox` before scoring."""
        path = Path(path)
        replace_text(path, json.dumps(self.detections))
        return path


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
    (height, width), of the scaled picture inside x and of the original; it answers with a list of dicts of boxes (n, 4)
    x1 y1 x2 y2 and masks (n, h, w) bool on the original, scores (n,), labels (n,).

    Only pictures of one padded size share a batch, so what a model sees of a picture does not depend on the others.

    Args:
        batch: largest number of pictures at once.
        interrupted: asked before each batch; every process has equally many.
        progress: told the number of this process's pictures after each batch.
        reference: pycocotools, the number to report; else faster-coco-eval, the same within 1e-3.

    Raises:
        Interrupted: `interrupted()` said so.
        ImageError: a picture cannot be read; evaluation never leaves one out.
        ConvNextError: pycocotools or faster-coco-eval is not installed.
    """
    encode = require("pycocotools.mask").encode
    _evaluator(reference)  # hours later would be late to hear that it is not installed
    modes = {label: model.training for label, model in models.items()}
    found: dict[str, dict[int, list[dict]]] = {label: {} for label in models}
    done = 0
    try:
        for model in models.values():
            model.eval()
        for indices, x, inside, error in _batches(dataset, pre, world, batch, workers):
            if interrupted():
                raise Interrupted
            if error:
                raise ImageError(f"{error} Evaluation leaves no image out: repair or remove it.")
            if not indices:
                continue
            x, outside = x.to(world.device, non_blocking=True), [dataset.size(i) for i in indices]
            for label, model in models.items():
                predict: Any = model.predict
                with autocast(precision, world.device):
                    predictions = predict(x, image_sizes=inside, output_sizes=outside)
                for i, prediction in zip(indices, predictions, strict=True):
                    found[label][i] = to_coco(prediction, int(dataset.image_ids[i]), dataset.category_ids, encode)
            done += len(indices)
            progress(done)
    finally:
        for label, model in models.items():
            model.train(modes[label])
    results = {}
    for label, mine in found.items():
        detections = _gather(mine, world)
        box, mask = world.on_main(lambda detections=detections: _average_precision(detections, dataset, reference))
        results[label] = Result(detections, box, mask, dataset.classes, dataset.counts().tolist())
    return results


def score_detections(detections: list[dict], dataset: CocoImages, reference: bool = True) -> Result:
    """The average precision of detections, which are in COCO's result format and stay as they are.

    Args:
        reference: pycocotools, the number to report; else faster-coco-eval, the same within 1e-3.

    Raises:
        ConvNextError: a detection is of an image that the dataset does not have; the evaluator is not installed.
    """
    if unknown := {detection["image_id"] for detection in detections} - set(dataset.image_ids.tolist()):
        raise ConvNextError(
            f"There are detections of {len(unknown)} images that {dataset.path} does not have, such as id "
            f"{min(unknown)}. Score them against the data that they were made from."
        )
    box, mask = _average_precision(detections, dataset, reference)
    return Result(detections, box, mask, dataset.classes, dataset.counts().tolist())


def to_coco(prediction: dict[str, Tensor], image_id: int, category_ids: np.ndarray, encode: Callable) -> list[dict]:
    """A model's answer for one picture in COCO's result format; `encode` is pycocotools'."""
    boxes = prediction["boxes"].double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    found = [
        {"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score}
        for box, score, label in zip(
            boxes.tolist(), prediction["scores"].tolist(), prediction["labels"].tolist(), strict=True
        )
    ]
    if "masks" in prediction:
        # the encoder runs down columns: (n, h, w) -> (n, w, h) in memory, which is (h, w, n) in Fortran's order
        columns = prediction["masks"].transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
        for detection, code in zip(found, encode(columns.transpose(2, 1, 0)), strict=True):
            detection["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
    return found


def _gather(mine: dict[int, list[dict]], world: World) -> list[dict]:
    """The detections of all processes, in the order of the dataset."""
    parts: list[dict] = [mine]
    if world.size > 1:
        parts = [{}] * world.size
        dist.all_gather_object(parts, mine)
    found = {i: detections for part in parts for i, detections in part.items()}
    return [detection for i in sorted(found) for detection in found[i]]


def _average_precision(
    detections: list[dict], dataset: CocoImages, reference: bool
) -> tuple[Precision, Precision | None]:
    """Of boxes and of masks."""
    truth = dataset.ground_truth()
    box = _score("bbox", truth, detections, reference)
    has_masks = dataset.has_masks and all("segmentation" in detection for detection in detections)
    return box, _score("segm", truth, detections, reference) if has_masks else None


def _score(kind: str, truth: dict, detections: list[dict], reference: bool) -> Precision:
    coco, evaluator = _evaluator(reference)
    if kind == "bbox":
        areas = [detection["bbox"][2] * detection["bbox"][3] for detection in detections]
    else:  # of the mask: the tools' own `loadRes` would take the box's where both are there, and so do small, medium, large
        area = require("pycocotools.mask").area  # one by one: of more than 255 at once it fails with NumPy 2
        areas = [int(area(detection["segmentation"])) for detection in detections]
    marks = [{"id": k, "area": area, "iscrowd": 0} for k, area in enumerate(areas, 1)]
    answers = [detection | mark for detection, mark in zip(detections, marks, strict=True)]
    with redirect_stdout(StringIO()):
        indexed = []
        for annotations in (truth["annotations"], answers):
            indexed.append(coco())
            indexed[-1].dataset = truth | {"annotations": annotations}
            indexed[-1].createIndex()
        run = evaluator(*indexed, iouType=kind)
        run.evaluate()
        run.accumulate()
    table = np.asarray(run.eval["precision"])[..., -1]  # (thresholds, recalls, classes, areas), of 100 detections
    values = {"ap": table[..., 0], "ap50": table[0, ..., 0], "ap75": table[5, ..., 0]}
    values |= {f"ap_{area}": table[..., k] for k, area in enumerate(AREAS) if k}
    return Precision(
        {key: _percent(part) for key, part in values.items()},
        np.array([_percent(table[:, :, k, 0]) for k in range(table.shape[2])]),
    )


def _evaluator(reference: bool) -> tuple[Any, Any]:
    if reference:
        return require("pycocotools.coco").COCO, require("pycocotools.cocoeval").COCOeval
    faster = require("faster_coco_eval")
    return faster.COCO, faster.COCOeval_faster


def _percent(precision: np.ndarray) -> float:
    """The mean where it is defined: the evaluators mark classes without objects with -1."""
    defined = precision[precision > -1]
    return 100.0 * float(defined.mean()) if defined.size else float("nan")


@dataclass
class _Pictures(Dataset):
    """By index: (index, scaled and normalised picture or None, why it cannot be read or None)."""

    images: CocoImages
    preprocess: DensePreprocess

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, str | None]:
        try:
            return i, self.preprocess(self.images.image(i)), None
        except ImageError as error:
            return i, None, str(error)


def _batches(dataset: CocoImages, pre: DensePreprocess, world: World, batch: int, workers: int) -> DataLoader:
    """This process's (indices, x (B, 3, H, W), sizes inside x, error); process r takes the pictures r, r + world, ..

    Every process has equally many, of which the last may be empty.
    """

    def padded(i: int) -> tuple[int, ...]:
        return tuple(-(-side // PAD_MULTIPLE) for side in scaled_size(dataset.size(i), pre.short, pre.long))

    def plan(rank: int) -> list[list[int]]:
        alike = defaultdict(list)
        for i in range(rank, len(dataset), world.size):
            alike[padded(i)].append(i)
        # the largest first: if memory does not suffice, it shows at once
        groups = [alike[shape] for shape in sorted(alike, key=math.prod, reverse=True)]
        return [group[k : k + batch] for group in groups for k in range(0, len(group), batch)]

    plans = [plan(rank) for rank in range(world.size)]
    mine = plans[world.rank]
    batches = mine + [[]] * (max(map(len, plans)) - len(mine))
    return _loader(_Pictures(dataset, pre), batches, workers, world.device.type == "cuda", _collate)


def _collate(samples: list[tuple]) -> tuple[list[int], Tensor, list[tuple[int, int]], str | None]:
    images = [image for _, image, _ in samples if image is not None]
    return (
        [i for i, _, _ in samples],
        pad_to_multiple(images, PAD_MULTIPLE) if images else torch.empty(0),
        [(image.shape[-2], image.shape[-1]) for image in images],
        next((error for _, _, error in samples if error), None),
    )
