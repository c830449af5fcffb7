"""`convnext data check DATA`, `convnext data corrupt DATA OUT`, and the way to the others, which have files of their own."""

from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from convnext.cli.parsing import parse
from convnext.console import progress_bar, stdout
from convnext.errors import ConvNextError, nearest
from convnext.recipes.ranges import SIDE, ranged
from convnext.recipes.reading import Reading

Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]

DESCRIPTION = """Look at a dataset before training on it: classes and their balance, images that cannot be read, the same
image in train and val, sizes, and a drawn batch as the model will see it. Folders in COCO's and in ADE20K's layout
are recognised: boxes outside their images, labels without a class, a sample with its labels drawn.

    convnext data check photos
    convnext data check photos --recipe table5/tiny --out photos-check
    convnext data check coco
    convnext data check photos --model convnext_tiny.in22k

Exit code 1 if something would stop a training or falsify its result."""


@dataclass(frozen=True)
class Arguments:
    data: Data
    """Labelled images, as for `train`."""
    recipe: str = "small/finetune"
    """Recipe whose transforms are shown (classification)."""
    out: Path = Path("data-check")
    """Folder for batch.png or sample.png."""
    image_size: int | None = ranged(None, **SIDE)
    """Side in pixels, if not the recipe's."""
    val_share: float = ranged(0.1, above=0, below=1)
    """Share held out for validation, when the data has no validation part of its own."""
    seed: int = 0
    """Decides which images are held out, and the drawn augmentation."""
    model: str | None = None
    """A classifier, such as convnext_tiny.in22k, whose features show near-duplicates and images that look like other classes."""
    read: Reading = field(default_factory=Reading)


CORRUPT = """Write corrupted copies of the validation images, in ImageNet-C's layout: OUT/CORRUPTION/SEVERITY/CLASS/NAME.jpg.

    convnext data corrupt photos photos-c --corruptions fog motion_blur
    convnext data corrupt photos photos-all --corruptions all --severities 3 5

What is there is kept, so a write that was stopped continues. `convnext robustness MODEL --corrupt photos` evaluates the
same corruptions without writing them."""


@dataclass(frozen=True)
class CorruptArguments:
    data: Data
    """Labelled images, as for `train`."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Output folder: new, or from an earlier `data corrupt`."""
    corruptions: tuple[str, ...] = ("c",)
    """Names, or the groups c (15), c-extra (4), c-bar (10) and all."""
    severities: tuple[int, ...] = ranged((1, 2, 3, 4, 5), at_least=1, at_most=5, nonempty=True)
    """From 1, weak, to 5, strong."""
    size: int = ranged(224, **SIDE)
    """Side in pixels to which images are resized and cropped before they are corrupted."""
    jpeg: int = ranged(85, at_least=1, at_most=100)
    """Quality of the JPEGs (4:2:0); the released sets have 85."""
    seed: int = 0
    """An image's corruption depends on this and its name alone."""


OTHERS = {
    "convert": "write a dataset in another format: COCO, YOLO, Pascal VOC, CSV, folders, parquet",
    "shard": "write WebDataset shards: few large tar files",
    "speed": "images per second that one core prepares, beside timm and torchvision",
}
"""Commands that are the modules `convnext.cli.data_WORD`."""
WORDS = ("check", "corrupt", *OTHERS)

HELP = f"""usage: convnext data check DATA ...
       convnext data corrupt DATA OUT ...
{chr(10).join(f"       convnext data {word} ...    {what}" for word, what in OTHERS.items())}

{DESCRIPTION}

{CORRUPT}

`convnext data check --help` and so on show the options."""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if argv[0] == "check":
        return check(parse(Arguments, argv[1:], "data check", DESCRIPTION))
    if argv[0] == "corrupt":
        return corrupt(parse(CorruptArguments, argv[1:], "data corrupt", CORRUPT))
    if argv[0] in OTHERS:
        return import_module(f"convnext.cli.data_{argv[0]}").run(argv[1:])
    raise ConvNextError(
        f"There is no `convnext data {argv[0]}`.{nearest(argv[0], WORDS)} There are {', '.join(WORDS)}."
    )


def corrupt(arguments: CorruptArguments) -> int:
    """Write corrupted copies."""
    from convnext.robustness.generated import choose
    from convnext.robustness.write import write_corrupted

    names, severities = choose(arguments.corruptions, arguments.severities)
    with progress_bar("corrupting") as progress:
        written = write_corrupted(
            arguments.data, arguments.out, names, severities, arguments.seed, arguments.size, progress, arguments.jpeg
        )
    stdout().print(f"Written: {written:,} images to {arguments.out}")
    return 0


def check(arguments: Arguments) -> int:
    """Examine, print, draw; 1 if there are errors."""
    from convnext import recipes, tasks

    recipe = recipes.get(arguments.recipe)
    spec = next(spec for spec in reversed(tasks.specs()) if spec.recognises(arguments.data))
    if spec.recipe is not type(recipe):
        recipe = spec.recipe()
    recipe = replace(
        recipe, data=arguments.data, val_share=arguments.val_share, seed=arguments.seed, read=arguments.read
    )
    if arguments.image_size is not None:
        recipe = spec.at_size(recipe, arguments.image_size)
    code = spec.check_data(arguments.data, recipe, arguments.out)
    if arguments.model is not None:
        _show_alike(arguments, recipe)
    return code


def _show_alike(arguments: Arguments, recipe: Any) -> None:
    """Print near-duplicates and outliers by a model's features."""
    from convnext.console import print_table, table
    from convnext.features.alike import alike_tables
    from convnext.trained import check_name, load

    check_name(str(arguments.model))
    model = load(str(arguments.model))
    with progress_bar("embedding") as progress:
        tables = alike_tables(model, arguments.data, recipe, progress)
    for each in tables:
        stdout().print()
        print_table(stdout(), table(**vars(each)))
