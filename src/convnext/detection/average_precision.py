"""Average precision of detections in COCO's result format, by pycocotools or faster-coco-eval."""

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from convnext.detection.coco import CocoImages
from convnext.errors import ConvNextError
from convnext.extras import require
from convnext.files import replace_text

AREAS = ("all", "small", "medium", "large")  # in the evaluators' order; borders at 32 x 32 and 96 x 96 pixels


@dataclass
class Precision:
    """Average precision in percent; nan where there is no ground truth.

    `values`: ap, ap50, ap75, ap_small, ap_medium, ap_large, means over classes; `per_class`: (K,) ap of each.
    """

    values: dict[str, float]
    per_class: np.ndarray


@dataclass
class Result:
    """Detections and their average precision.

    Attributes:
        detections: in COCO's result format: image_id, category_id, bbox (x, y, w, h), score, segmentation (RLE).
        box, mask: average precision at IoU 0.5, 0.55, .. 0.95 of boxes and masks; mask is None where the model or the
            data has no masks.
        classes: K names; objects: number of ground-truth objects of each class, without crowds.
    """

    detections: list[dict]
    box: Precision
    mask: Precision | None
    classes: list[str]
    objects: list[int]

    def metrics(self) -> dict[str, float]:
        """box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large, and mask_ap .. likewise, in percent.

        0 without detections, nan without ground truth.
        """
        kinds = {"box": self.box} | ({"mask": self.mask} if self.mask else {})
        return {f"{kind}_{key}": value for kind, part in kinds.items() for key, value in part.values.items()}

    @property
    def per_class(self) -> list[dict]:
        """Rows, one per class: name, objects, box_ap and mask_ap in percent."""
        rows = []
        for k, name in enumerate(self.classes):
            row = {"name": name, "objects": self.objects[k], "box_ap": float(self.box.per_class[k])}
            rows.append(row | ({"mask_ap": float(self.mask.per_class[k])} if self.mask else {}))
        return rows

    def write_json(self, path: str | Path) -> Path:
        """Write the detections in COCO's result format. Drop `bbox` for the mask AP by size of cocoapi's `loadRes`."""
        path = Path(path)
        replace_text(path, json.dumps(self.detections))
        return path


def score_detections(detections: list[dict], dataset: CocoImages, reference: bool = True) -> Result:
    """Compute the average precision of detections in COCO's result format, which are not changed.

    A detection without `bbox` gets the box around its `segmentation`, as cocoapi does.

    Args:
        reference: pycocotools, the number to report; else faster-coco-eval, the same within 1e-3.

    Raises:
        ConvNextError: a detection lacks a key or is of an image that the dataset does not have; no evaluator is installed.
    """
    for k, detection in enumerate(detections):
        missing = [key for key in ("image_id", "category_id", "score") if key not in detection]
        if missing or not ("bbox" in detection or "segmentation" in detection):
            raise ConvNextError(
                f"Detection {k} has no {missing[0] if missing else 'bbox or segmentation'!r}. COCO's result format needs "
                "image_id, category_id, score, and a bbox (x, y, width, height) or a segmentation for each."
            )
    if unknown := {detection["image_id"] for detection in detections} - set(dataset.image_ids.tolist()):
        raise ConvNextError(
            f"There are detections of {len(unknown)} images that {dataset.path} does not have, such as id "
            f"{min(unknown)}. Score them against the data that they were made from."
        )
    truth = dataset.ground_truth()
    box, mask = _score("bbox", truth, [_with_box(detection) for detection in detections], reference), None
    if dataset.has_masks and all("segmentation" in detection for detection in detections):
        mask = _score("segm", truth, detections, reference)
    return Result(detections, box, mask, dataset.classes, dataset.counts().tolist())


def _with_box(detection: dict) -> dict:
    if "bbox" in detection:
        return detection
    return detection | {"bbox": require("pycocotools.mask", "detection").toBbox(detection["segmentation"]).tolist()}


def _score(kind: str, truth: dict, detections: list[dict], reference: bool) -> Precision:
    coco, evaluator = find_evaluator(reference)
    if kind == "bbox":
        areas = [detection["bbox"][2] * detection["bbox"][3] for detection in detections]
    else:  # the mask's area decides small, medium, large; `loadRes` would take the box's where there is one
        area = require(
            "pycocotools.mask", "detection"
        ).area  # one by one: of more than 255 at once it fails with NumPy 2
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


def find_evaluator(reference: bool) -> tuple[Any, Any]:
    """Import (COCO, COCOeval) of pycocotools, or of faster-coco-eval. Raises ConvNextError: not installed."""
    if reference:
        return require("pycocotools.coco", "detection").COCO, require("pycocotools.cocoeval", "detection").COCOeval
    faster = require("faster_coco_eval", "detection")
    return faster.COCO, faster.COCOeval_faster


def _percent(precision: np.ndarray) -> float:
    """Mean over the defined values: the evaluators mark classes without ground truth with -1."""
    defined = precision[precision > -1]
    return 100.0 * float(defined.mean()) if defined.size else float("nan")


def to_coco(prediction: dict[str, Tensor], image_id: int, category_ids: np.ndarray, encode: Callable) -> list[dict]:
    """Convert the prediction for one image to COCO's result format; `encode` is pycocotools'."""
    boxes = prediction["boxes"].double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    detections = [
        {"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score}
        for box, score, label in zip(
            boxes.tolist(), prediction["scores"].tolist(), prediction["labels"].tolist(), strict=True
        )
    ]
    if "masks" in prediction:
        # the encoder runs down columns: (n, h, w) -> (n, w, h) in memory, which is (h, w, n) in Fortran's order
        columns = prediction["masks"].transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
        for detection, code in zip(detections, encode(columns.transpose(2, 1, 0)), strict=True):
            detection["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
    return detections
