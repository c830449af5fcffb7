"""`convnext data shard SRC OUT`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convnext.cli.parsing import parse
from convnext.console import progress_bar, stdout
from convnext.errors import ConvNextError
from convnext.recipes.ranges import ranged

DESCRIPTION = """Write labelled images as WebDataset shards: few large tar files, which copy and read faster than millions of
small ones. `--data OUT` then trains on them, and any WebDataset loader reads them.

    convnext data shard imagenet imagenet-shards
    convnext data shard photos shards --size 64MB

Images are copied as they are, in a fixed random order, into OUT/train and OUT/val. The same images give the same bytes. Give
the same command again to continue one that was stopped."""


@dataclass(frozen=True)
class Arguments:
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Labelled images, as for `train`."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the shards."""
    size: str = "512MB"
    """Largest size of a shard: a number with kB, MB or GB."""
    val_share: float = ranged(0.1, above=0, below=1)
    """Share held out for OUT/val, when the data has no validation part of its own."""
    seed: int = 0
    """Decides which images are held out."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "data shard", DESCRIPTION)
    size = size_in_bytes(arguments.size)
    from convnext.classification.open import fingerprint, open_parts
    from convnext.data.shard_writer import write_shards
    from convnext.files import replace_text

    parts = dict(zip(("train", "val"), open_parts(arguments.data, arguments.val_share, arguments.seed), strict=True))
    classes = parts["train"].classes
    if parts["train"].multi_label or any("\n" in name for name in classes):
        raise ConvNextError(
            "Shards hold one label per image, of classes whose names have one line. Take another format."
        )
    out = stdout()
    for name, images in parts.items():
        plan = {"fingerprint": fingerprint(images), "images": len(images), "size": size}
        with progress_bar(name) as progress:
            shards = write_shards(images, arguments.out / name, plan, size, progress)
        out.print(f"{name}: {len(images):,} images in {shards:,} shard{'s' * (shards != 1)}")
    replace_text(arguments.out / "classes.txt", "".join(f"{name}\n" for name in classes))
    out.print(f"Written: {arguments.out}")
    return 0


def size_in_bytes(words: str) -> int:
    """512MB -> 512,000,000. Raises ConvNextError if it is no size, or below 10 kB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(kB|MB|GB)", words, re.IGNORECASE)
    size = int(float(found[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[found[2][0].lower()]) if found else 0
    if size < 10_000:
        raise ConvNextError(f"--size {words!r} must be a number with kB, MB or GB, from 10kB on, such as 512MB.")
    return size
