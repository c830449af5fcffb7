"""`convnext data check` for images with a label for each pixel: examine, print, draw a sample with its labels."""

from pathlib import Path

from convnext.console import progress_bar, stdout
from convnext.recipes.schema import Segmentation
from convnext.segmentation.check import check_masks
from convnext.segmentation.masks import open_masks
from convnext.task.check_report import conclude, print_classes, print_sides, readable


def report_check(data: str, recipe: Segmentation, out: Path) -> int:
    """Examine `data`; 1 if something would stop a training or falsify its result."""
    console = stdout()
    with progress_bar("reading every image") as progress:
        report = check_masks(data, recipe.val_share, recipe.seed, progress=progress)
    counts = [list(pair) for pair in zip(report.train.pixels, report.val.pixels, strict=True)]
    print_classes(report.classes, counts, ["train", "val"], "pixels", console)
    for title, part in (("train", report.train), ("val", report.val)):
        console.print(f"{title}: {part.images:,} images, {100 * part.ignored_share:.1f} % of the pixels ignored")
    console.print(f"values in the label files: {report.expected}")
    print_sides(report, console)

    def draw() -> Path:
        from convnext.report.segmentation import draw_sample

        images = open_masks(data, recipe.val_share, recipe.seed)[0]
        return draw_sample(
            [(image, images.target(i)) for i, image in readable(images)], out / "sample.png", images.classes
        )

    return conclude(report, "A sample with its labels", draw, console)
