"""Evaluate a model over many units, one after the other, each finished one written down at once."""

from collections.abc import Callable, Sequence

from torch import nn

from convnext import __version__
from convnext.classification.dataset import ImageDataset
from convnext.classification.evaluate import Sliced, evaluate
from convnext.classification.open import fingerprint
from convnext.data.loader import EvalSamples, eval_loader
from convnext.errors import ConvNextError
from convnext.robustness.results import Results
from convnext.robustness.subject import Subject
from convnext.robustness.units import Record, Unit
from convnext.runtime.world import World

Progress = Callable[[str, int, int], None]


def run(
    subject: Subject,
    units: Sequence[Unit],
    results: Results,
    world: World,
    batch: int,
    workers: int,
    precision: str = "fp32",
    progress: Progress = lambda unit, done, images: None,
) -> None:
    """Evaluate the units that `results` does not have yet, and write it after each.

    Args:
        progress: told the unit's key, and this process's images done and in all; with none done when a unit begins.

    Raises:
        ConvNextError: the results are of another model, preprocessing or data, or the model lacks classes of a unit.
        ImageError: an image cannot be read; evaluation never leaves one out.
    """
    models = {unit.set: restricted(subject, unit.classes, unit.set) for unit in units}
    finished = results.claim(subject.name, subject.identity(precision))
    for unit in units:  # all of them, before hours are spent on the others
        if unit.key in finished:
            results.check_data(finished[unit.key], describe(unit.open(), unit))
    for unit in units:
        if unit.key not in finished:
            finished[unit.key] = _evaluate(subject, models[unit.set], unit, world, batch, workers, precision, progress)
            if world.is_main:
                results.save()


def restricted(subject: Subject, classes: Sequence[str], part: str) -> nn.Module:
    """The model with its logits in the order of `classes`, and no others.

    Raises:
        ConvNextError: it does not know all of them.
    """
    if list(classes) == subject.classes:
        return subject.model
    index_of = {name: i for i, name in enumerate(subject.classes)}
    unknown = [name for name in classes if name not in index_of]
    if unknown:
        raise ConvNextError(
            f"{part} has classes that {subject.name} does not know: {len(unknown)} of {len(classes)}, such as "
            f"{unknown[0]!r}; the model's {len(subject.classes)} are {', '.join(subject.classes[:3])}, .. The released "
            "sets take a model of ImageNet's classes; any other is tested on its own data with --corrupt."
        )
    return Sliced(subject.model, [index_of[name] for name in classes])


def describe(images: ImageDataset, unit: Unit) -> dict:
    """Facts that change when a unit's images do; of generated corruptions, the version that makes them too."""
    made = {} if unit.seed is None else {"seed": unit.seed, "convnext": __version__, "jpeg": unit.jpeg}
    return {"images_sha256": fingerprint(images)} | made


def _evaluate(
    subject: Subject,
    model: nn.Module,
    unit: Unit,
    world: World,
    batch: int,
    workers: int,
    precision: str,
    progress: Progress,
) -> Record:
    images = unit.open()
    mine = -(-len(images) // world.size)
    progress(unit.key, 0, mine)
    samples = EvalSamples(images, subject.transform(unit.view))
    loader = eval_loader(samples, batch, workers, world.device.type == "cuda", world.rank, world.size)
    result = evaluate(
        {"model": model},
        loader,
        len(unit.classes),
        world,
        precision,
        progress=lambda done: progress(unit.key, done, mine),
    )["model"]
    count, correct = int(result.count.sum()), int(result.correct1.sum())
    return Record(unit.set, unit.corruption, unit.severity, count, correct, describe(images, unit))
