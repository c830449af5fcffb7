"""Comparison of an exported detector with the model it was made of: do both find the same objects in the same images?

Which boxes remain after suppression can hang on the last bit of a score. So each object of one is looked for among those of
the other: the same class, and a box in the same place.

Legend: n objects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from convnext.data.conventions import PAD_MULTIPLE
from convnext.data.pixels import pad_to_multiple
from convnext.detection.cascade import Detections
from convnext.task.compare import Tolerance

CLEAR = 0.1  # score from which an object must be found by the other too; below, the threshold of 0.05 is near
SAME = 0.75  # IoU


@dataclass(frozen=True)
class DetectorComparison:
    """Result of `compare_detectors`.

    Attributes:
    images: images compared, `sizes` of the smallest and the largest, padded.
    found: objects with a score of at least 0.1, of both sides.
    agreement: percent of them that the other found too.
    difference: the largest of the scores of such pairs; `pixels` of their boxes' sides.
    masks: percent of the pixels of their masks' union that both have.
    missed: the first that only one found, in words.
    worst: where the difference is largest, in words.
    """

    images: int
    sizes: tuple[tuple[int, int], ...]
    found: int
    agreement: float
    difference: float
    pixels: float
    masks: float
    missed: tuple[str, ...]
    worst: str

    def failure(self, tolerance: Tolerance) -> str | None:
        """A sentence about the first thing beyond the tolerance; None if everything is within."""
        if not self.found:
            return (
                "in none of the images was anything found, so there was nothing to compare: give --images with objects"
            )
        if not self.agreement >= tolerance.agreement:
            return (
                f"{self.agreement:.2f} % of the objects that one finds are found by the other, and not {tolerance.agreement:g} %: "
                + "; ".join(self.missed)
            )
        if tolerance.difference is not None and not self.difference <= tolerance.difference:
            return f"the scores differ by up to {self.difference:.2e}, more than {tolerance.difference:g}: {self.worst}"
        return None

    def rows(self, tolerance: Tolerance) -> list[tuple[str, str]]:
        """(label, text) rows for the terminal."""
        allowed = "any" if tolerance.difference is None else f"{tolerance.difference:g}"
        return [
            ("found by both", f"{self.agreement:.2f} % of {self.found} ({tolerance.agreement:g} % asked for)"),
            ("largest difference", f"{self.difference:.2e} of the scores ({allowed} allowed)"),
            ("", f"{self.pixels:.2g} pixels of the boxes, {100 - self.masks:.2g} % of the masks"),
        ]


@torch.inference_mode()
def compare_detectors(
    model: Any,
    exported: Any,
    names: Sequence[str],
    view: Callable[[int], Tensor],
    classes: Sequence[str],
    multiple: int = PAD_MULTIPLE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DetectorComparison:
    """Run both on every image.

    Args:
        model, exported: have `predict` of `detection.Detector`.
        view: makes image i a tensor (3, H, W), normalised, not padded.
        multiple: to which images are padded: the side of the square that all come to, where the file has one.
    """
    total = hits = 0
    difference, pixels, worst = 0.0, 0.0, "nowhere"
    both = either = 0
    missed: list[str] = []
    sizes: set[tuple[int, int]] = set()
    for i, name in enumerate(names):
        x = view(i)
        inside = [(x.shape[1], x.shape[2])]
        padded = pad_to_multiple([x], multiple)
        sizes.add((padded.shape[2], padded.shape[3]))
        sides = [each.predict(padded, image_sizes=inside)[0] for each in (model, exported)]
        for one, other, who in ((*sides, "PyTorch"), (*reversed(sides), "the file")):
            for k in (one["scores"] >= CLEAR).nonzero()[:, 0].tolist():
                total += 1
                at, what = partner(one, k, other), f"{classes[int(one['labels'][k])]} in {name}"
                if at is None:
                    missed.append(f"{what}, score {float(one['scores'][k]):.3f} in {who} alone")
                    continue
                hits += 1
                apart = float((one["scores"][k] - other["scores"][at]).abs())
                if apart > difference or worst == "nowhere":
                    difference = max(apart, difference)
                    worst = f"{what}, {float(one['scores'][k]):.6f} in {who} and {float(other['scores'][at]):.6f}"
                pixels = max(pixels, float((one["boxes"][k] - other["boxes"][at]).abs().max()))
                both += int((one["masks"][k] & other["masks"][at]).sum())
                either += int((one["masks"][k] | other["masks"][at]).sum())
        progress(i + 1, len(names))
    agreement = 100 * hits / max(total, 1)
    extremes = tuple(dict.fromkeys((min(sizes), max(sizes))))
    masks = 100 * both / either if either else 100.0
    return DetectorComparison(
        len(names), extremes, total, agreement, difference, pixels, masks, tuple(missed[:3]), worst
    )


def partner(one: Detections, k: int, other: Detections) -> int | None:
    """Position in `other` of object k of `one`; None if it is not there."""
    same = (other["labels"] == one["labels"][k]).nonzero()[:, 0]
    if not len(same):
        return None
    overlap, best = box_iou(one["boxes"][k : k + 1], other["boxes"][same])[0].max(dim=0)
    return int(same[best]) if float(overlap) >= SAME else None
