"""`convnext data check` for images with one label: examine, print, draw a batch as the model will see it."""

from pathlib import Path

from convnext.classification.check import CheckReport, check
from convnext.classification.open import open_dataset
from convnext.console import Out, progress_bar, stdout
from convnext.recipes.schema import Classification
from convnext.task.check_report import conclude, print_classes, print_sides

LISTED = 10  # problems of one kind that are listed by name
VIEWS = 16  # images in a drawn batch


def report_check(data: str, recipe: Classification, out: Path) -> int:
    """Examine `data` as a run of `recipe` would open it; 1 if something would stop a training or falsify its result."""
    console = stdout()
    with progress_bar("reading every image") as progress:
        report = check(data, recipe.val_share, recipe.seed, progress=progress, reading=recipe.read)
    _print(report, console)
    some = report.train_images > len(report.unreadable_train)
    draw = (lambda: _draw_batch(data, recipe, out)) if some else None
    return conclude(report, "A batch as the model sees it", draw, console)


def _print(report: CheckReport, console: Out) -> None:
    counts = list(zip(report.train_counts, report.val_counts, strict=True))
    print_classes(report.classes, counts, ("train", "val"), "", console)
    train, val = report.train_images, report.val_images
    several = ", several to an image" if report.multi_label else ""
    read_as = f" ({report.format})" if report.format else ""
    console.print(
        f"{report.data}{read_as}: {train:,} to train on, {val:,} held out, {len(report.classes)} classes{several}"
    )
    print_sides(report, console)
    if report.modes:
        console.print("modes: " + ", ".join(f"{mode} {count:,}" for mode, count in report.modes.items()))
    for title, unreadable in (("train", report.unreadable_train), ("val", report.unreadable_val)):
        for reason in list(unreadable.values())[:LISTED]:
            console.print(f"not readable ({title}): {reason}")
        if len(unreadable) > LISTED:
            console.print(f".. and {len(unreadable) - LISTED} more in {title}")
    crossing = [group for group in report.duplicates if group.train and group.val]
    for group in crossing[:LISTED]:
        console.print(f"in train and in val: {group.train[0]} = {group.val[0]}")
    if len(crossing) > LISTED:
        console.print(f".. and {len(crossing) - LISTED} more pairs")


def _draw_batch(data: str, recipe: Classification, out: Path) -> Path:
    """A row of training views of the first images, below it their evaluation views."""
    from convnext.classification.augment import train_transform
    from convnext.classification.transforms import Preprocess, eval_transform
    from convnext.data.images import ImageError
    from convnext.data.sampler import epoch_order
    from convnext.report.batch import draw_batch
    from convnext.seeding import seed_cpu

    pre = Preprocess.for_size(recipe.image_size)
    images = open_dataset(data, recipe.val_share, recipe.seed, recipe.read)[0]
    augmented, plain = train_transform(pre, recipe.augment), eval_transform(pre)
    views, titles = [], []
    for i in epoch_order(len(images), recipe.seed, 0):
        try:
            image = images.image(i)
        except ImageError:
            continue
        seed_cpu(recipe.seed, "sample", 0, int(i))
        views.append([view(image).permute(1, 2, 0).numpy() * pre.std + pre.mean for view in (augmented, plain)])
        titles.append(", ".join(images.label_names(i)))
        if len(views) == VIEWS:
            break
    return draw_batch(views, titles, out / "batch.png")
