"""`convnext data check` for images with boxes and masks: examine, print, draw a sample with its ground truth."""

from pathlib import Path

import numpy as np

from convnext.console import progress_bar, stdout
from convnext.detection.check import check_coco
from convnext.detection.open import open_objects
from convnext.layout import counted
from convnext.recipes.schema import Detection
from convnext.task.check_report import conclude, print_classes, print_sides, readable


def report_check(data: str, recipe: Detection, out: Path) -> int:
    """Examine `data`; 1 if something would stop a training or falsify its result."""
    console = stdout()
    with progress_bar("reading every image") as progress:
        report = check_coco(data, progress=progress, reading=recipe.read)
    parts = {title: part for title, part in (("train", report.train), ("val", report.val)) if part}
    counts = [[part.counts[k] for part in parts.values()] for k in range(len(report.classes))]
    print_classes(report.classes, counts, list(parts), "objects", console)
    for title, part in parts.items():
        found = (
            counted(part.images, "image"),
            counted(part.objects, "object"),
            counted(part.crowds, "crowd"),
            counted(len(part.empty), "image without objects", "images without objects"),
        )
        console.print(f"{title} ({report.format}): {', '.join(found)} ({part.path})")
    print_sides(report, console)

    def draw() -> Path:
        from convnext.report.detection import draw_detections, draw_sample

        images = open_objects(data, recipe.val_share, recipe.seed, recipe.read)[0]
        drawn = []
        for i, image in readable(images):
            truth = images.target(i, masks=images.has_masks)
            boxes, labels = np.asarray(truth["boxes"]), np.asarray(truth["labels"])
            drawn.append(
                (draw_detections(image, boxes, labels, None, truth.get("masks"), images.classes), images.name(i))
            )
        return draw_sample(drawn, out / "sample.png")

    return conclude(report, "A sample with its ground truth", draw, console)
