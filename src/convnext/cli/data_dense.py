"""`convnext data check` for boxes and for masks: examine, print, draw a sample; 1 if there are errors."""

from pathlib import Path

from convnext.cli.common import print_table, table
from convnext.cli.options import counted_bar

SHOWN = 12  # pictures in a drawn sample
BAR = 30  # characters of the longest bar


def check_objects(data: str, val_share: float, seed: int, out: Path, console) -> int:
    from convnext.detection.check import check_coco
    from convnext.detection.coco import open_coco

    with counted_bar("reading every image") as progress:
        report = check_coco(data, progress=progress)
    parts = [part for part in (report.train, report.val) if part]
    counts = [[part.counts[k] for part in parts] for k in range(len(report.classes))]
    titles = [title for title, part in (("train", report.train), ("val", report.val)) if part]
    _print_classes(report.classes, counts, titles, "objects", console)
    for title, part in zip(titles, parts, strict=True):
        console.print(
            f"{title}: {part.images:,} images, {part.objects:,} objects, {part.crowds:,} crowds, {len(part.empty):,} images "
            f"without objects ({part.path})"
        )
    _print_sides(report, console)

    def draw(path: Path) -> Path:
        import numpy as np

        from convnext.report.detection import draw_detections, draw_sample

        images = open_coco(data, val_share, seed)[0]
        drawn = []
        for i, image in _readable(images):
            found = images.target(i)
            masks = found.get("masks")
            boxes, labels = np.asarray(found["boxes"]), np.asarray(found["labels"])
            drawn.append((draw_detections(image, boxes, labels, None, masks, images.classes), images.name(i)))
        return draw_sample(drawn, path)

    return _conclude(report, draw, out, console)


def check_labels(data: str, val_share: float, seed: int, out: Path, console) -> int:
    from convnext.segmentation.check import check_masks
    from convnext.segmentation.masks import open_masks

    with counted_bar("reading every image") as progress:
        report = check_masks(data, val_share, seed, progress=progress)
    counts = [list(pair) for pair in zip(report.train.pixels, report.val.pixels, strict=True)]
    _print_classes(report.classes, counts, ["train", "val"], "pixels", console)
    for title, part in (("train", report.train), ("val", report.val)):
        console.print(f"{title}: {part.images:,} images, {100 * part.ignored_share:.1f} % of the pixels ignored")
    console.print(f"values in the label files: {report.expected}")
    _print_sides(report, console)

    def draw(path: Path) -> Path:
        from convnext.report.segmentation import draw_sample

        images = open_masks(data, val_share, seed)[0]
        return draw_sample([(image, images.target(i)) for i, image in _readable(images)], path, images.classes)

    return _conclude(report, draw, out, console)


def _readable(images):
    """The first pictures that can be read, with their positions."""
    from convnext.data.images import ImageError

    found = 0
    for i in range(len(images)):
        try:
            yield i, images.image(i)
        except ImageError:
            continue
        found += 1
        if found == SHOWN:
            return


def _print_classes(classes: list[str], counts: list[list[int]], titles: list[str], what: str, console) -> None:
    """Classes by how many objects or pixels they have in train; the largest and the smallest twenty of many."""
    order = sorted(range(len(classes)), key=lambda k: -counts[k][0])
    shown = order if len(order) <= 40 else [*order[:20], *order[-20:]]
    most = max((count[0] for count in counts), default=0) or 1
    rows = [
        (classes[k], *(f"{n:,}" for n in counts[k]), "█" * max(bool(counts[k][0]), round(BAR * counts[k][0] / most)))
        for k in shown
    ]
    if len(shown) < len(order):
        rows.insert(20, ("..", *("" for _ in titles), f"{len(order) - len(shown)} more"))
    made = table((f"class ({what})", *titles, ""), rows)
    made.columns[-1].justify = "left"
    print_table(console, made)
    console.print()


def _print_sides(report, console) -> None:
    low, high = report.short_side, report.long_side
    if low and high:
        console.print(
            f"sides in px: shorter {low.min} to {low.max} (median {low.median:g}), longer {high.min} to {high.max} "
            f"(median {high.median:g})"
        )


def _conclude(report, draw, out: Path, console) -> int:
    from convnext.errors import ConvNextError

    try:
        console.print(f"A sample with its labels: {draw(out / 'sample.png')}")
    except ConvNextError as error:  # such as labels that cannot be used; the report says why
        console.print(f"[yellow]No sample could be drawn: {error}[/]")
    for text in report.errors:
        console.print(f"[red]error:[/] {text}")
    for text in report.warnings:
        console.print(f"[yellow]warning:[/] {text}")
    if not report.errors and not report.warnings:
        console.print("No problems found.")
    return 1 if report.errors else 0
