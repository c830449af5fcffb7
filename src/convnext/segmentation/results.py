"""The answer of a segmenter for one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext.task.results import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

    from convnext.task.masks import MaskForm


@dataclass(repr=False)
class Segmentation(Prediction):
    """The class of every pixel: `label_map` (H, W), values 0..K-1; `alpha` is the strength of the colours in `draw`."""

    label_map: np.ndarray
    classes: list[str]
    alpha: float = 0.6
    files = (".png", ".colours.png", ".overlay.jpg")

    def shares(self) -> dict[str, float]:
        """Share of the pixels, in 0..1, of each class that is present, largest first."""
        present, counts = np.unique(self.label_map, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {self.classes[present[i]]: float(counts[i] / self.label_map.size) for i in order}

    def summary(self) -> list[tuple[str, ...]]:
        from convnext.report.segmentation import percent

        shares = self.shares()
        shown = ", ".join(f"{name} {percent(share)}" for name, share in list(shares.items())[:5])
        return [(shown + (", .." if len(shares) > 5 else ""),)]

    def to_dict(self) -> dict[str, Any]:
        """File, size and the share of each class."""
        height, width = self.label_map.shape
        return {"file": self.name, "height": height, "width": width, "classes": self.shares()}

    def dict_with_masks(self, form: MaskForm) -> dict[str, Any]:
        """With "rle" the mask of each class; with "png" the labels as one image with a palette, and the classes' colours."""
        from convnext.report.segmentation import label_image, palette
        from convnext.task.masks import png, rle

        answer = self.to_dict()
        present = {self.classes[label]: label for label in np.unique(self.label_map).tolist()}
        if form == "rle":
            answer["masks"] = {name: rle(self.label_map == label) for name, label in present.items()}
        elif form == "png":
            colours = palette(len(self.classes))
            answer["labels"] = png(label_image(self.label_map))
            answer["colours"] = {name: "#" + bytes(colours[label]).hex() for name, label in present.items()}
        return answer

    def draw(self) -> Image:
        """The image under the colours of its classes, with a legend."""
        from convnext.report.segmentation import overlay

        return overlay(self.source.image(), self.label_map, self.classes, self.alpha)

    def save(self, folder: Path, stem: str) -> list[Path]:
        """Write stem.png (values are labels), stem.colours.png and stem.overlay.jpg."""
        from convnext.report.segmentation import colour_mask, palette, save_labels

        labels, colours, drawn = (folder / (stem + ending) for ending in self.files)
        save_labels(self.label_map, labels)
        colour_mask(self.label_map, palette(len(self.classes))).save(colours)
        self.draw().save(drawn, quality=92)
        return [labels, colours, drawn]
