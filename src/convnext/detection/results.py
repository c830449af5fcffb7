"""The answer of a detector for one image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext.task.results import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

    from convnext.task.masks import MaskForm


@dataclass(repr=False)
class Detection(Prediction):
    """Objects in an image, best first.

    Attributes:
        boxes: (n, 4) float32 x1 y1 x2 y2 in pixels; scores: (n,) float32; labels: (n,) int64 in 0..K-1.
        masks: (n, h, w) bool of the image's size.
        coco: the same in COCO's result format, a dict each.
        classes: K names.
        threshold, with_masks: least score of what is drawn and counted, and True to draw the masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    coco: list[dict[str, Any]]
    classes: list[str]
    threshold: float = 0.3
    with_masks: bool = True

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detection:
        """The objects with at least this score."""
        kept = np.flatnonzero(self.scores >= threshold)
        parts = (self.boxes[kept], self.scores[kept], self.labels[kept], self.masks[kept])
        coco = [self.coco[k] for k in kept]
        return Detection(self.source, *parts, coco, self.classes, threshold, self.with_masks)

    def summary(self) -> list[tuple[str, ...]]:
        counts = Counter(self.above(self.threshold).names)
        return [(", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing",)]

    def to_dict(self) -> dict[str, Any]:
        """File and objects: class, score, box (x1 y1 x2 y2) and mask (COCO's run-length encoding)."""
        objects = [
            {"class": name, "score": round(float(score), 6), "box": [round(float(v), 2) for v in box]}
            | ({"mask": found["segmentation"]} if "segmentation" in found else {})
            for name, score, box, found in zip(self.names, self.scores, self.boxes, self.coco, strict=True)
        ]
        return {"file": self.name, "objects": objects}

    def dict_with_masks(self, form: MaskForm) -> dict[str, Any]:
        from PIL import Image as PIL

        from convnext.task.masks import png

        answer = self.to_dict()
        if form != "rle":
            for found, mask in zip(answer["objects"], self.masks, strict=True):
                found.pop("mask", None)
                if form == "png":
                    found["mask"] = png(PIL.fromarray(mask))
        return answer

    def draw(self) -> Image:
        """The image with boxes, masks, names and scores of the objects above the threshold."""
        from convnext.report.detection import draw_detections

        shown = self.above(self.threshold)
        masks = shown.masks if self.with_masks else None
        return draw_detections(self.source.image(), shown.boxes, shown.labels, shown.scores, masks, self.classes)
