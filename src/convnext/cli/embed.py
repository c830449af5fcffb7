"""`convnext embed MODEL DATA --out FILE`: vectors of images, with their names and labels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convnext.cli.parsing import Model, Precision, parse, require_model
from convnext.console import progress_bar, stderr, stdout
from convnext.errors import ConvNextError
from convnext.recipes.ranges import BATCH, SIDE, WORKERS, ranged
from convnext.recipes.reading import Reading

DESCRIPTION = """Write a vector for each image: the map of the network's last stage, normalised and averaged over its positions.

    convnext embed convnext_tiny.in22k photos --out vectors.parquet
    convnext embed runs/small-finetune 'holiday/*.jpg' --out holiday.parquet --stage 2 --dtype float16

Columns of the file: `file`, `labels` where the data has them, and `vector`. What is labelled is read as for `train`, else
image files, folders of them, or globs. `convnext evaluate MODEL --protocol knn` says how well such vectors tell classes.

Exit code 2 if an image could not be read; the others are written."""


@dataclass(frozen=True)
class Embed:
    model: Model
    """A run's folder, a checkpoint file, or a name of the catalog."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Labelled images, as for `train`; or an image file, a folder of images, or a glob."""
    out: Path = Path("vectors.parquet")
    """The file to write."""
    overwrite: bool = False
    """Replace the file where it is there already."""
    stage: int | None = ranged(None, at_least=0, at_most=3)
    """Stage of the network, 0 to 3; by default the last."""
    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the numbers in the file."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Weights of a run."""
    image_size: int | None = ranged(None, **SIDE)
    """Side in pixels, if not the checkpoint's."""
    batch: int = ranged(64, **BATCH)
    """Images at once."""
    workers: int | None = ranged(None, **WORKERS)
    """Processes that load images; by default as in training."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    precision: Precision = "auto"
    """Precision of the arithmetic; auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU, where
    bf16 can be faster: docs/speed.md."""
    verify: bool = True
    """Compare weights with the digest in their file; --no-verify saves some time with large models."""
    read: Reading = field(default_factory=Reading)


def run(argv: list[str]) -> int:
    require_model(argv, "embed")
    arguments: Any = parse(Embed, argv, "embed", DESCRIPTION)

    from convnext.trained import check_name, load

    check_name(arguments.model)
    if arguments.out.suffix != ".parquet":
        raise ConvNextError(
            f"--out is {str(arguments.out)!r}; vectors are written as parquet: end the name in .parquet."
        )
    if arguments.out.exists() and not arguments.overwrite:
        raise ConvNextError(f"{arguments.out} is there already. Give --overwrite to replace it, or another --out.")

    from dataclasses import replace

    from convnext.features.vectors import embed, open_images, write_vectors

    options = ("device", "precision", "verify", "weights", "image_size")
    model = load(arguments.model, **{option: getattr(arguments, option) for option in options})
    images = open_images(arguments.data, replace(model.spec.recipe(), read=arguments.read))
    with progress_bar("embedding") as progress:
        vectors = embed(model, images, arguments.stage, arguments.batch, arguments.workers, progress)
    for each in vectors.unreadable:
        stderr().print(f"Left out: {each}", style="red")
    if not vectors.names:
        raise ConvNextError(f"No image of {arguments.data} could be read, so nothing was written.")
    stage = "last" if arguments.stage is None else str(arguments.stage)
    source = str(model.opened.loaded.source)
    write_vectors(vectors, arguments.out, arguments.dtype, {"model": source, "stage": stage})
    n, channels = vectors.values.shape
    labelled = "" if vectors.labels is None else ", with labels"
    stdout().print(f"Written: {n:,} vectors of {channels:,} numbers{labelled}: {arguments.out}")
    return 2 if vectors.unreadable else 0
