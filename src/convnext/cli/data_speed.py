"""`convnext data speed [DATA]`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convnext.cli.parsing import parse
from convnext.console import print_table, progress_bar, stdout, table
from convnext.errors import ConvNextError
from convnext.recipes.ranges import SIDE, ranged

DESCRIPTION = """Images per second that one core prepares for training and evaluation: each part and the whole, beside timm's
and torchvision's transforms with the same settings, in turn.

    convnext data speed                              generated JPEG files of 500 x 375 pixels
    convnext data speed --pixels 4000 3000 --images 8
    convnext data speed photos --image-size 384

Images a second and core x the number of loading processes is what a GPU can be fed with. Times are of the processor, so other
work on the machine matters little."""


@dataclass(frozen=True)
class Arguments:
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = ""
    """Labelled images, as for `train`; default: generated ones."""
    pixels: tuple[int, int] = ranged((500, 375), at_least=8, at_most=10000)
    """Width and height of generated images."""
    images: int = ranged(64, at_least=1, at_most=10000)
    """Number of images, which are kept in memory."""
    recipe: str = "table5/tiny"
    """Recipe whose augmentation is measured."""
    image_size: int = ranged(224, **SIDE)
    """Side of the model's input in pixels."""
    rounds: int = ranged(5, at_least=1, at_most=1000)
    """Times that everything is measured."""
    out: Path | None = None
    """JSON file to write; it must not exist."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "data speed", DESCRIPTION)
    if arguments.out and arguments.out.exists():
        raise ConvNextError(f"{arguments.out} exists; give another --out, or remove it.")
    import torch

    from convnext import recipes
    from convnext.benchmark import loading
    from convnext.benchmark.rows import environment
    from convnext.classification.transforms import Preprocess

    augment = getattr(recipes.get(arguments.recipe), "augment", None)
    if augment is None or not hasattr(augment, "crop_scale"):
        raise ConvNextError(f"{arguments.recipe} trains no classifier; give a recipe of one, such as table5/tiny.")
    files, what = _files(arguments)
    works = loading.works(files, Preprocess.for_size(arguments.image_size), augment)
    with progress_bar("measuring") as bar:
        rows = loading.measure(works, files, arguments.rounds, show=lambda name, done, total: bar(done, total))
    rival = rows["timm, training"]["images_per_second"]
    cells = [
        (
            name,
            f"{row['images_per_second']:,.0f}",
            f"{row['milliseconds']['p50']:.2f}",
            f"{row['images_per_second'] / rival:.2f}" if ", training" in name else "",
        )
        for name, row in rows.items()
    ]
    title = f"{what}, {arguments.image_size} px, one core, medians of {arguments.rounds} rounds"
    out = stdout()
    print_table(out, table(("", "img/s", "ms", "to timm"), cells, title, left=1))
    if arguments.out:
        from convnext.files import replace_text

        command = " ".join(["convnext data speed", *argv])
        facts = environment(torch.device("cpu")) | {"command": command, "images": what, "rounds": arguments.rounds}
        replace_text(arguments.out, json.dumps(facts | {"rows": rows}, indent=1) + "\n")
        out.print(f"Written: {arguments.out}")
    return 0


def _files(arguments: Arguments) -> tuple[list[bytes], str]:
    """Encoded images, and what they are in words."""
    from convnext.benchmark.loading import generated

    if not arguments.data:
        width, height = arguments.pixels
        return generated(
            arguments.images, width, height
        ), f"{arguments.images} generated JPEG files, {width} x {height}"
    from convnext.classification.open import open_parts

    images = open_parts(arguments.data, 0.1, 0)[0]
    chosen = [images.source(i * len(images) // arguments.images) for i in range(min(arguments.images, len(images)))]
    files = [path.read_bytes() if isinstance(path, Path) else path for path in chosen]
    encoded = [file for file in files if isinstance(file, bytes)]
    if len(encoded) < len(files):
        raise ConvNextError(f"{arguments.data} holds no encoded images, so there is nothing to decode.")
    return encoded, f"{len(encoded)} images of {arguments.data}"
