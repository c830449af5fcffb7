"""`convnext robustness MODEL.. --imagenet-a DIR ..`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from convnext.cli.parsing import check_data, parse
from convnext.cli.robustness_tables import print_report
from convnext.console import stderr, stdout
from convnext.errors import ConvNextError
from convnext.layout import shortened
from convnext.recipes.ranges import BATCH, WORKERS, ranged

DESCRIPTION = """Accuracy on harder and on corrupted images: the sets of the paper's Table 8, and the same corruptions on
your own images.

    convnext robustness runs/small-finetune --corrupt photos
    convnext robustness convnext_tiny.in1k --clean imagenet --imagenet-c imagenet-c --imagenet-r imagenet-r
    convnext robustness model.safetensors timm:resnet50.a1_in1k torchvision:resnet50.IMAGENET1K_V1 --imagenet-a imagenet-a
    convnext robustness runs/small-finetune --corrupt photos --corruptions fog motion_blur c-bar --severities 3

MODEL is a run's folder, a checkpoint file or a name of the catalog; or, with the weights and the preprocessing of its
library, timm:NAME, torchvision:NAME[.WEIGHTS] or transformers:ID. Several models are rows of one table.

Released sets are the folders that their archives make; relative mCE needs --clean. Each corruption at each severity is
written to robustness.json when it is done and never computed again, so a stopped command can simply be repeated.
Several processes share the work: torchrun --nproc-per-node 8 -m convnext robustness ..

Exit code 1 if a mean had to be refused because a corruption or a severity is missing."""

RELEASED = {
    "clean": "clean",
    "imagenet_a": "imagenet-a",
    "imagenet_r": "imagenet-r",
    "imagenet_sketch": "imagenet-sketch",
    "imagenet_c": "imagenet-c",
    "imagenet_c_bar": "imagenet-c-bar",
}
"""Options and sets; the large ones last."""


@dataclass(frozen=True)
class Arguments:
    model: tyro.conf.Positional[tuple[str, ...]]
    """One or more models."""
    clean: Path | None = None
    """ImageNet's validation images, one folder per wordnet id, or the folder that has them as val/."""
    imagenet_a: Path | None = None
    """The folder of its 200 class folders; top-1 among these classes."""
    imagenet_r: Path | None = None
    """As ImageNet-A."""
    imagenet_sketch: Path | None = None
    """The folder of its 1,000 class folders."""
    imagenet_c: Path | None = None
    """With or without the folders noise, blur, weather, digital and extra that its archives make."""
    imagenet_c_bar: Path | None = None
    """The folder of its ten corruptions."""
    corrupt: str | None = None
    """Labelled images to corrupt on the fly, as for `evaluate --data`: a run's own data means its held-out part."""
    corruptions: tuple[str, ...] = ("c", "c-bar")
    """For --corrupt: names, or the groups c (15), c-extra (4), c-bar (10) and all."""
    severities: tuple[int, ...] = ranged((1, 2, 3, 4, 5), at_least=1, at_most=5, nonempty=True)
    """For --corrupt: from 1, weak, to 5, strong."""
    seed: int = 0
    """For --corrupt: an image's corruption depends on this and its name alone."""
    jpeg: int | None = ranged(85, at_least=1, at_most=100)
    """For --corrupt: quality of the JPEG (4:2:0) that each corrupted image goes through, 85 as in the released sets; it
    weakens noise by 2 to 3 dB. None: none."""
    out: Path | None = None
    """Folder for robustness.json and robustness.png; RUN/robustness for a run, else ./robustness-NAME, of the first model."""
    batch: int = ranged(64, **BATCH)
    workers: int | None = ranged(None, **WORKERS)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Precision of the arithmetic; auto: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "robustness", DESCRIPTION)
    if not arguments.model:
        raise ConvNextError(
            "Name one or more models first: a run's folder, a checkpoint, a catalog name, or timm:NAME."
        )
    if arguments.corrupt is None and not any(getattr(arguments, field) for field in RELEASED):
        raise ConvNextError(
            "Nothing to evaluate on: give the folder of one or more released sets (--imagenet-a, --imagenet-r, "
            "--imagenet-sketch, --imagenet-c, --imagenet-c-bar, --clean), or --corrupt with labelled images of your own."
        )
    from convnext.trained import check_name

    for name in arguments.model:
        if ":" not in name:  # of another library
            check_name(name)
    check_data(arguments.corrupt)

    from convnext.runtime import world as processes

    with processes.joined(arguments.device) as world:
        return _robustness(arguments, world)


def _robustness(arguments: Arguments, world) -> int:
    from convnext.console import bar_of
    from convnext.data.loader import default_workers
    from convnext.robustness.generated import choose, generated_units
    from convnext.robustness.load import load_subject
    from convnext.robustness.results import Results
    from convnext.robustness.run import run as evaluate_units
    from convnext.robustness.sets import gaps, released_units
    from convnext.runtime.precision import described, resolve_precision

    chosen = choose(arguments.corruptions, arguments.severities)
    released = [
        unit
        for field, part in RELEASED.items()
        if (folder := getattr(arguments, field)) is not None
        for unit in released_units(part, folder)
    ]
    folder = arguments.out or _default_out(arguments.model[0])
    results = Results.open(folder / "robustness.json")
    workers = default_workers(world.device, world.local_size) if arguments.workers is None else arguments.workers
    precision = resolve_precision(arguments.precision, world.device)
    out, err = stdout(), stderr()
    if world.is_main:
        for sentence in gaps(released):
            err.print(f"{sentence}", style="yellow")
    tested, sources = [], {}
    with bar_of("", err, world.is_main) as (bar, whole):
        part = bar.add_task("")
        for name in dict.fromkeys(arguments.model):
            subject = load_subject(name, world.device)
            units = list(released)
            if arguments.corrupt is not None:
                images, sources[name] = _images(arguments.corrupt, subject)
                units += generated_units(images, subject, *chosen, arguments.seed, arguments.jpeg)
            number = {unit.key: i for i, unit in enumerate(units)}

            def show(key: str, done: int, images: int, number=number, name=name) -> None:
                bar.update(whole, description=shortened(name, 28), completed=number[key], total=len(number))
                bar.update(part, description=shortened(f"  {key}", 28), completed=done, total=images)

            evaluate_units(subject, units, results, world, arguments.batch, workers, precision, show)
            tested.append((subject.name, subject.size, subject.paper_row))
    return print_report(tested, sources, results, out, described(precision, world.device)) if world.is_main else 0


def _images(data: str, subject: Any) -> tuple[Any, str]:
    """Images to corrupt for a model, and in words which they are: never those that it was trained on, where that is known."""
    from convnext.classification.open import open_for_evaluation
    from convnext.own_data import choose_images

    if subject.opened is None:
        images = open_for_evaluation(data, subject.classes, 0.1, 0)
        return images, f"{len(images):,} images of {data}"
    chosen = choose_images(subject.opened, data, None, {})
    return chosen.samples, f"{len(chosen.samples):,} images of {chosen.words}"


def _default_out(model: str) -> Path:
    from convnext.runtime.run_folder import is_run

    path = Path(model)
    if is_run(path):
        return path / "robustness"
    stem = path.stem if path.suffix in (".safetensors", ".pth", ".pt", ".bin") else path.name
    return Path(f"robustness-{stem.replace(':', '-')}")
