"""`convnext data check DATA` and `convnext data corrupt DATA OUT`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from convnext.cli.common import parse, print_table, stdout, table
from convnext.cli.data_dense import check_labels, check_objects
from convnext.cli.options import counted_bar
from convnext.errors import ConvNextError, nearest

DESCRIPTION = """Look at a dataset before training on it: classes and their balance, images that cannot be read, the same
picture in train and val, sizes, and a picture of a batch as the model will see it. Folders in COCO's and in ADE20K's layout
are recognised: boxes outside their pictures, labels without a class, a sample with its labels drawn.

    convnext data check photos
    convnext data check photos --recipe table5/tiny --out photos-check
    convnext data check coco

Exit code 1 if something would stop a training or falsify its result."""


@dataclass(frozen=True)
class Arguments:
    data: tyro.conf.Positional[str]
    """Labelled images, as for `train`."""
    recipe: str = "small/finetune"
    """Whose transforms to show (classification)."""
    out: Path = Path("data-check")
    """Folder for batch.png or sample.png."""
    image_size: int | None = None
    """Side in pixels, if not the recipe's."""
    val_share: float = 0.1
    seed: int = 0


CORRUPT = """Write corrupted copies of the validation images, in ImageNet-C's layout: OUT/CORRUPTION/SEVERITY/CLASS/NAME.jpg.

    convnext data corrupt photos photos-c --corruptions fog motion_blur
    convnext data corrupt photos photos-all --corruptions all --severities 3 5

What is there is kept, so a write that was stopped continues. `convnext robustness MODEL --corrupt photos` evaluates the
same corruptions without writing them."""


@dataclass(frozen=True)
class CorruptArguments:
    data: tyro.conf.Positional[str]
    """Labelled images, as for `train`."""
    out: tyro.conf.Positional[Path]
    """A folder, new or of this command."""
    corruptions: tuple[str, ...] = ("c",)
    """Names, or the groups c (15), c-extra (4), c-bar (10) and all."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """From 1, weak, to 5, strong."""
    size: int = 224
    """Side in pixels to which images are resized and cropped before they are corrupted."""
    seed: int = 0
    """An image's corruption depends on this and its name alone."""


HELP = f"""usage: convnext data check DATA ...
       convnext data corrupt DATA OUT ...

{DESCRIPTION}

{CORRUPT}

`convnext data check --help` and `convnext data corrupt --help` show the options."""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if argv[0] == "check":
        return check(parse(Arguments, argv[1:], "data check", DESCRIPTION))
    if argv[0] == "corrupt":
        return corrupt(parse(CorruptArguments, argv[1:], "data corrupt", CORRUPT))
    raise ConvNextError(
        f"There is no `convnext data {argv[0]}`.{nearest(argv[0], ['check', 'corrupt'])} There are check and corrupt."
    )


def corrupt(arguments: CorruptArguments) -> int:
    """Write corrupted copies."""
    from convnext.robustness.generated import choose
    from convnext.robustness.write import write_corrupted

    names, severities = choose(arguments.corruptions, arguments.severities)
    with counted_bar("corrupting") as progress:
        written = write_corrupted(
            arguments.data, arguments.out, names, severities, arguments.seed, arguments.size, progress=progress
        )
    stdout().print(f"Written: {written:,} images to {arguments.out}")
    return 0


def check(arguments: Arguments) -> int:
    """Examine, print, draw; 1 if there are errors."""
    from convnext.classification.check import check as examine
    from convnext.detection.coco import is_coco
    from convnext.segmentation.masks import is_masks

    out = stdout()
    if is_coco(arguments.data):
        return check_objects(arguments.data, arguments.val_share, arguments.seed, arguments.out, out)
    if is_masks(arguments.data):
        return check_labels(arguments.data, arguments.val_share, arguments.seed, arguments.out, out)
    with counted_bar("reading every image") as progress:
        report = examine(arguments.data, arguments.val_share, arguments.seed, progress=progress)
    _print(report, out)
    if sum(report.train_counts) > len(report.unreadable_train):
        out.print(f"A batch as the model sees it: {_draw_batch(arguments)}")
    for text in report.errors:
        out.print(f"[red]error:[/] {text}")
    for text in report.warnings:
        out.print(f"[yellow]warning:[/] {text}")
    if not report.errors and not report.warnings:
        out.print("No problems found.")
    return 1 if report.errors else 0


def _print(report, out) -> None:
    order = sorted(range(len(report.classes)), key=lambda k: -report.train_counts[k])
    shown = order if len(order) <= 40 else [*order[:20], *order[-20:]]
    most = max(report.train_counts) or 1
    rows = [
        (
            report.classes[k],
            report.train_counts[k],
            report.val_counts[k],
            "█" * max(1, round(30 * report.train_counts[k] / most)),
        )
        for k in shown
    ]
    if len(shown) < len(order):
        rows.insert(20, ("..", "", "", f"{len(order) - len(shown)} more"))
    made = table(("class", "train", "val", ""), rows)
    made.columns[3].justify = "left"
    print_table(out, made)
    images = (
        f"{sum(report.train_counts):,} to train on, {sum(report.val_counts):,} held out, {len(report.classes)} classes"
    )
    out.print(f"\n{report.data}: {images}")
    if report.short_side and report.long_side:
        low, high = report.short_side, report.long_side
        out.print(
            f"sides in px: shorter {low.min} to {low.max} (median {low.median:g}), "
            f"longer {high.min} to {high.max} (median {high.median:g})"
        )
        out.print("modes: " + ", ".join(f"{mode} {count:,}" for mode, count in report.modes.items()))
    for title, unreadable in (("train", report.unreadable_train), ("val", report.unreadable_val)):
        for reason in list(unreadable.values())[:10]:
            out.print(f"not readable ({title}): {reason}")
        if len(unreadable) > 10:
            out.print(f".. and {len(unreadable) - 10} more in {title}")
    crossing = [group for group in report.duplicates if group.train and group.val]
    for group in crossing[:10]:
        out.print(f"in train and in val: {group.train[0]} = {group.val[0]}")
    if len(crossing) > 10:
        out.print(f".. and {len(crossing) - 10} more pairs")


def _draw_batch(arguments: Arguments) -> Path:
    """What training and evaluation make of the first images: a row of training views, below it the evaluation views."""
    from convnext import recipes
    from convnext.classification.open import open_dataset
    from convnext.classification.transforms import Preprocess, eval_transform, train_transform
    from convnext.data.images import ImageError
    from convnext.data.sampler import epoch_order
    from convnext.report.batch import draw_batch
    from convnext.seeding import seed_cpu

    recipe = recipes.get(arguments.recipe)
    pre = Preprocess.for_size(arguments.image_size or recipe.image_size)
    images = open_dataset(arguments.data, arguments.val_share, arguments.seed)[0]
    augmented, plain = train_transform(pre, recipe.augment), eval_transform(pre)
    views, titles = [], []
    for i in epoch_order(len(images), arguments.seed, 0):
        try:
            image = images.image(i)
        except ImageError:
            continue
        seed_cpu(arguments.seed, "sample", 0, int(i))
        views.append([view(image).permute(1, 2, 0).numpy() * pre.std + pre.mean for view in (augmented, plain)])
        titles.append(images.classes[images.labels[i]])
        if len(views) == 16:
            break
    return draw_batch(views, titles, arguments.out / "batch.png")
