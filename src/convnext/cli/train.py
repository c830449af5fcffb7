"""`convnext train RECIPE [--data DIR] [--field value ...]`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from convnext import recipes
from convnext.cli.common import fetched, parse, print_table, stdout, table, take_word
from convnext.errors import ConvNextError
from convnext.recipes.schema import Classification, Detection, Recipe, Segmentation

DESCRIPTION = """Train a model by a recipe; every field of the recipe can be overridden.

    convnext train                                    the quickstart: handwritten digits
    convnext train small/finetune --data photos --model.weights convnext_tiny.in22k
    convnext train small/scratch --data photos --model.name convnext_femto --epochs 100
    torchrun --nproc-per-node 8 -m convnext train table5/tiny --data imagenet

The same command continues a run that was stopped, to the same bits. `convnext info recipes` lists the recipes."""


@dataclass(frozen=True)
class Arguments:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run; runs/RECIPE if not given. One that holds an unfinished run of the same config is continued."""
    dry_run: bool = False
    """Show what the run would be, and stop."""


def run(argv: list[str]) -> int:
    name, rest = take_word(argv, "quickstart", "a recipe")
    if name == "quickstart" and not argv[:1] == ["quickstart"] and any(a.split("=")[0] == "--data" for a in rest):
        raise ConvNextError(
            "Name the recipe to train your own images with: `convnext train small/finetune --data ...` from released weights, "
            "or `convnext train small/scratch --data ...` from random ones. Without a recipe, digits are trained."
        )
    recipe = recipes.get(name)
    arguments = parse_arguments(name, rest, recipe)
    return train(name, arguments.recipe, arguments.out, arguments.dry_run)


def parse_arguments(name: str, argv: list[str], recipe: Recipe) -> Arguments:
    """The recipe with the overrides of the command line."""
    argv = ["--model.name" if word == "--model" else word for word in argv]
    return parse(Arguments, argv, f"train {name}", DESCRIPTION, default=Arguments(recipe))


def train(name: str, recipe: Recipe, out: Path | None = None, dry_run: bool = False) -> int:
    """Run a recipe from start or from where it stopped; returns the exit code."""
    from convnext.runtime import world as distributed

    world = distributed.start(recipe.runtime.device)
    try:
        return _train(name, recipe, out, dry_run, world)
    finally:
        distributed.stop()


def _train(name: str, recipe: Recipe, out: Path | None, dry_run: bool, world) -> int:
    from convnext.recipes.plan import make_plan
    from convnext.runtime import run_folder as rundir
    from convnext.runtime.device import describe
    from convnext.runtime.interruption import Stopped
    from convnext.runtime.precision import resolve_precision
    from convnext.train.loop import Run

    console = stdout()
    console.quiet = not world.is_main
    open_data, make_task, size = _parts(recipe)
    train_images, val_images = open_data(recipe)
    if Path(recipe.data).is_dir():  # so that the run can be evaluated from anywhere
        recipe = replace(recipe, data=str(Path(recipe.data).absolute()))
    plan = make_plan(recipe, len(train_images), world.size)
    rows = [
        ("recipe", f"{name} ({recipe.source})"),
        ("model", f"{recipe.model.name}, {len(train_images.classes)} classes, {size}"),
        ("data", f"{recipe.data}: {len(train_images):,} to train on, {len(val_images):,} held out"),
        ("device", f"{describe(world.device)}, {resolve_precision(recipe.precision, world.device)}"),
        *plan.rows()[1:],
    ]
    if recipe.model.weights:
        world.on_main(lambda: fetched(str(recipe.model.weights)))  # once, and with a bar
    folder = world.on_main(lambda: out or rundir.choose_folder(name, recipe))
    print_table(console, table(("", ""), [*rows, ("folder", folder)], left=2))
    warnings = plan.warnings()
    if isinstance(recipe, Classification) and recipe.optim.layer_decay is not None and not recipe.model.weights:
        warnings.append(
            "This recipe is for fine-tuning, and the model starts from random weights: give --model.weights with a "
            "checkpoint or a released one, such as convnext_tiny.in22k."
        )
    for warning in warnings:
        console.print(f"[yellow]{warning}[/]")
    if dry_run:
        return 0
    state = world.on_main(lambda: rundir.claim(folder, name, recipe))
    if state == "finished":
        console.print(f"The run in {folder} is finished; `convnext evaluate {folder}` shows it. Give another --out.")
        return 0
    task = make_task(recipe, plan, train_images, val_images, world, folder, console.print)
    try:
        state = Run(task, recipe, plan, folder, world, console).fit()
    except Stopped as stopped:
        console.print(f"Stopped at {stopped}; the state is saved in {folder}. Give the same command to continue.")
        return stopped.code
    if world.is_main:
        _finish(folder, state, task.columns, console)
    return 0


def _parts(recipe: Recipe) -> tuple[Callable, Callable, str]:
    """What opens the data of a recipe's task, what makes the task, and the size of its pictures in words."""
    match recipe:
        case Classification():
            from convnext.classification.task import ClassificationTask, open_data

            return open_data, ClassificationTask, f"{recipe.image_size} px"
        case Detection(augment=augment):
            from convnext.detection.task import DetectionTask, open_data

            sides = f"{min(augment.short_sides)} to {max(augment.short_sides)}"
            return open_data, DetectionTask, f"short side {sides} px, {recipe.test_short} in evaluation"
        case Segmentation(augment=augment):
            from convnext.segmentation.task import SegmentationTask, open_data

            return open_data, SegmentationTask, f"short side {augment.short} px, crops of {augment.crop}"
    raise TypeError(recipe)


def _finish(folder: Path, state, columns: tuple[tuple[str, str, int], ...], console) -> None:
    """The summary, the curves and the next commands."""
    from convnext.files import replace_text, to_json
    from convnext.report.curves import draw_curves
    from convnext.runtime.run_folder import SUMMARY
    from convnext.train.recorder import read_lines

    last = [record for record in read_lines(folder / "metrics.jsonl") if record["kind"] == "eval"][-1]
    summary = {"final": last, "best": state.best, "steps": state.step, "skipped_steps": state.skipped}
    replace_text(folder / SUMMARY, to_json(summary, indent=2) + "\n")
    draw_curves(folder)
    labels = {"raw": "final weights", "ema": "their moving average (EMA)"}
    rows = [
        (text, file, *(f"{last[f'{label}/{metric}']:.{digits}f}" for metric, _, digits in columns))
        for (label, text), file in zip(labels.items(), ("model.safetensors", "model_ema.safetensors"), strict=True)
        if f"{label}/{columns[0][0]}" in last
    ]
    print_table(console, table(("on the held-out images", "file", *(title for _, title, _ in columns)), rows, left=2))
    best = state.best
    console.print(
        f"Best: {best['score']:.2f} % ({labels[best['weights']]}, step {best['step']}) in best.safetensors. "
        f"Curves: {folder / 'curves.png'}"
    )
    console.print(
        f"Next: convnext predict {folder} IMAGES...   convnext evaluate {folder}   convnext report curves {folder}"
    )
