"""`convnext.train`: a run from its recipe to its summary, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from convnext import recipes
from convnext.errors import ConvNextError, nearest

if TYPE_CHECKING:
    from convnext.console import Out
    from convnext.engine.loop import State
    from convnext.recipes.plan import Plan
    from convnext.recipes.schema import Recipe
    from convnext.runtime.world import World
    from convnext.task.engine import DataTask
    from convnext.trained import Trained


LOOKED_AT = 20_000
"""Files whose time is looked at when a run is continued: seconds on a slow file system."""


@dataclass(repr=False)
class TrainingRun:
    """A run and its folder.

    Attributes:
        folder: config, metrics, weights, curves, checkpoints.
        name: of the recipe; `recipe`: with all overrides.
        finished: False for a dry run.
        held: Python sequences that it was trained on, kept for `run.load().evaluate()`.
    """

    folder: Path
    name: str
    recipe: Recipe
    finished: bool
    held: Any = None

    @property
    def records(self) -> list[dict]:
        """Every record of the metrics: kind ("train" or "eval"), step, epoch, and the metrics of that kind."""
        from convnext.engine.recorder import read_lines
        from convnext.runtime.names import METRICS

        return read_lines(self.folder / METRICS)

    @property
    def best(self) -> dict:
        """The best evaluation so far: score, weights ("raw" or "ema") and step; empty before the first. Without the score,
        the last weights of a run that held out no images."""
        return dict(self._summary().get("best") or {})

    def _summary(self) -> dict:
        import json

        from convnext.runtime.names import SUMMARY

        file = self.folder / SUMMARY
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def load(self, **options: Any) -> Trained:
        """The best weights, ready for use; options as for `convnext.load`."""
        from convnext.trained import load

        return load(self.folder, **options)

    def __str__(self) -> str:
        best, metric = self.best, self._summary().get("metric", "")
        score = (
            f", best {metric} {best['score']:.2f} ({best['weights']}, step {best['step']})" if "score" in best else ""
        )
        return f"run of {self.name} in {self.folder}{score}"

    def __repr__(self) -> str:
        return f"<{self}>"


def train(
    recipe: str | Recipe = "quickstart",
    *,
    out: str | Path | None = None,
    dry_run: bool = False,
    on_record: Callable[[dict], None] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> TrainingRun:
    """Train a model by a recipe, from the start or from where the run in `out` stopped.

    The same call again continues a run that was stopped or killed, to the same bits as one that was not, and returns a
    finished run as it is:

        run = convnext.train("small/finetune", data="photos", epochs=10, model={"weights": "convnext_tiny.in22k"})
        run.load().predict("holiday.jpg")

    Args:
        recipe: name of a recipe ("small/finetune"; `convnext info recipes` lists them), or a recipe object.
        out: folder of the run; `runs/RECIPE` if None, numbered where that holds another run.
        dry_run: show the plan of the run, and write nothing.
        on_record: a function that receives every record of the metrics as it is written, such as `print`.
        quiet: print nothing.
        overrides: fields of the recipe, nested ones as dicts: `image_size=192, optim={"lr": 1e-4}`; `convnext info recipe
            NAME` shows them all. `data` can be a list of (image, target), too: `data.formats.sequence.Labelled`.

    Returns:
        The run: `run.folder`, `run.best` (score, weights, step), `run.records`, `run.load()`.

    Raises:
        ConvNextError: an unknown recipe or field, a value out of range, data that cannot be used, a folder that holds
            another run, or a run that cannot go on (non-finite losses, a full disk); the message says what to do.
        Stopped: Ctrl-C or SIGTERM came; the state is saved.
    """
    from convnext.console import stdout
    from convnext.data.formats.sequence import hold_all

    name = recipe if isinstance(recipe, str) else f"{recipe.task}/custom"
    plain = recipes.get(recipe) if isinstance(recipe, str) else recipe
    held = hold_all(overrides, plain.places)
    chosen = overridden(plain, overrides)
    console = stdout()
    console.quiet = quiet
    return replace(run_recipe(name, chosen, Path(out) if out else None, dry_run, console, on_record), held=held)


def overridden(recipe: Any, overrides: Mapping[str, Any], prefix: str = "") -> Any:
    """A recipe with some of its fields replaced, nested ones by dicts.

    Raises:
        ConvNextError: there is no such field; the message has the nearest.
    """
    from pydantic import TypeAdapter, ValidationError

    types = get_type_hints(type(recipe))
    known = [field.name for field in fields(recipe)]
    changed = {}
    for key, value in overrides.items():
        if key not in known:
            raise ConvNextError(
                f"The recipe has no field {prefix}{key}.{nearest(key, known)} Its fields: {', '.join(sorted(known))}."
            )
        before = getattr(recipe, key)
        if is_dataclass(before) and isinstance(value, Mapping):
            changed[key] = overridden(before, value, f"{prefix}{key}.")
            continue
        try:
            changed[key] = value if is_dataclass(value) else TypeAdapter(types[key]).validate_python(value)
        except ValidationError as error:
            raise ConvNextError(f"{prefix}{key} cannot be {value!r}: {error.errors()[0]['msg']}.") from None
    return replace(recipe, **changed)


def run_recipe(
    name: str,
    recipe: Recipe,
    out: Path | None,
    dry_run: bool,
    console: Out,
    on_record: Callable[[dict], None] | None = None,
) -> TrainingRun:
    """`train` of a complete recipe, printing to `console`; errors as there."""
    from convnext.runtime import world as processes

    with processes.joined(recipe.runtime.device, recipe.runtime.timeout) as world:
        console.quiet = console.quiet or not world.is_main
        return _run(name, recipe, out, dry_run, console, on_record, world)


def _run(
    name: str,
    recipe: Recipe,
    out: Path | None,
    dry_run: bool,
    console: Out,
    on_record: Callable[[dict], None] | None,
    world: World,
) -> TrainingRun:
    from convnext import tasks
    from convnext.console import print_table, table
    from convnext.data.patterns import absolute, is_pattern
    from convnext.engine.graphed import check_graph
    from convnext.engine.loop import Run
    from convnext.layout import counted
    from convnext.recipes.diff import flatten
    from convnext.recipes.plan import make_plan
    from convnext.runtime import run_folder
    from convnext.runtime.device import describe
    from convnext.runtime.precision import described, resolve_precision
    from convnext.runtime.trackers import tracked
    from convnext.task.cache import cache_rows

    spec = tasks.of_recipe(recipe)
    tasks.of_model(recipe.model.name)  # raises where there is none
    train_images, val_images = spec.open_data(recipe)
    for label in train_images.classes:
        if not label.isascii() and label.encode("utf-8", "replace").decode("utf-8") != label:
            raise ConvNextError(f"The class {label!r} has a name that is no UTF-8, which weights need: rename it.")
    for field in recipe.places:  # so that the run can be evaluated from anywhere
        if (place := getattr(recipe, field)) and (Path(place).expanduser().exists() or is_pattern(place)):
            recipe = replace(recipe, **{field: absolute(place)})
    if recipe.from_scratch:
        recipe = replace(recipe, model=replace(recipe.model, weights=None))
    elif recipe.needs_weights and not recipe.model.weights:
        raise ConvNextError(
            f"{name} fine-tunes ({recipe.source}), and no weights are named: give --model.weights with a checkpoint or a "
            f"released one, leave the option out for the paper's, or give --from-scratch to train from random weights."
        )
    elif recipe.freeze and not recipe.model.weights:
        raise ConvNextError(
            "--freeze keeps parts of the model as they are, and no weights are named, so these would stay random: give "
            "--model.weights with a checkpoint or a released one, or --from-scratch to do so all the same."
        )
    engine: Any = spec.engine(train_images)
    engine.check(recipe, train_images)
    plan = make_plan(recipe, len(train_images), world.size)
    if recipe.model.weights:
        world.on_main(lambda: _fetch(name, recipe))
    folder = world.on_main(lambda: out or run_folder.choose_folder(name, recipe))
    if recipe.device_batch == "auto":
        found = world.on_main(lambda: _batch_size(recipe, plan, folder, train_images, val_images, world))
        recipe = replace(recipe, device_batch=found)
        plan = make_plan(recipe, len(train_images), world.size)
    check_graph(recipe, plan, world)
    classes = counted(len(train_images.classes), "class", "classes")
    precision = described(resolve_precision(recipe.precision, world.device), world.device)
    if (published := recipe.published_precision) and precision != published:
        precision += f" (the paper: {published}; --precision {published})"
    read_as = f" (read as {kind})" if (kind := getattr(train_images, "format", "")) else ""
    rows = [
        ("recipe", f"{name} ({recipe.source})"),
        ("model", ", ".join(filter(None, (recipe.model.name, classes, spec.geometry(recipe)[1])))),
        ("data", f"{recipe.data}{read_as}: {len(train_images):,} to train on, {_evaluated(recipe, val_images)}"),
        ("device", f"{describe(world.device)}, {precision}"),
        *plan.rows()[1:],
        *world.on_main(lambda: cache_rows(spec, recipe, train_images)),
        ("folder", folder),
    ]
    print_table(console, table(("", ""), rows, left=2))
    warnings = [*plan.warnings(), *engine.warnings(recipe, train_images)]
    if recipe.optim.layer_decay is not None and not recipe.model.weights:
        own = recipes.recipes().get(name, recipe).model.weights
        warnings.append(
            "This recipe is for fine-tuning, and the model starts from random weights: give --model.weights with a "
            f"checkpoint or a released one, such as {own or 'convnext_tiny.in22k'}."
        )
    for warning in warnings:
        console.print(warning, style="yellow")
    if dry_run:
        return TrainingRun(folder, name, recipe, finished=False)
    world.on_main(lambda: _check_validation(spec, val_images, console))
    state = world.on_main(lambda: run_folder.claim(folder, name, recipe))
    if state == "unfinished" and world.is_main and (changed := changed_files(spec, train_images, folder)):
        console.print(
            f"{len(changed):,} training images have changed since the last checkpoint, such as {changed[0]}: the run goes on "
            "with what they are now, and its result is not that of a run that saw them from the start.",
            style="yellow",
        )
    if state == "finished":
        console.print(f"The run in {folder} is finished; `convnext evaluate {folder}` shows it. Give another --out.")
        return TrainingRun(folder, name, recipe, finished=True)
    task = engine(recipe, plan, train_images, val_images, world, folder, console.print)
    with tracked(recipe.track if world.is_main else (), folder, flatten(recipe), console.print, on_record) as record:
        state = Run(task, recipe, plan, folder, world, console, record).fit()
    if state.step < plan.total_steps:
        console.print(
            f"Stopped after step {state.step:,} of {plan.total_steps:,}: {recipe.patience} evaluations in a row were not better "
            f"than the best {task.metric} so far (--patience)."
        )
    if world.is_main:
        _finish(folder, state, task, console)
    return TrainingRun(folder, name, recipe, finished=True)


def _evaluated(recipe: Recipe, images: Any) -> str:
    """The images that a run is evaluated on, in words."""
    if not len(images):
        return "none held out, so no evaluation"
    elsewhere = [place for field in recipe.places[1:] if (place := getattr(recipe, field))]
    return f"{len(images):,} " + (f"of {elsewhere[0]} to evaluate on" if elsewhere else "held out")


def _batch_size(recipe: Recipe, plan: Plan, folder: Path, train_images: Any, val_images: Any, world: World) -> int:
    """The images per forward pass for `--device-batch auto`: those of the run in the folder, or as many as fit."""
    from convnext import tasks
    from convnext.runtime.names import CONFIG
    from convnext.runtime.run_folder import read_config
    from convnext.task.batch_size import largest_batch

    if (folder / CONFIG).exists() and isinstance(there := read_config(folder)[1].device_batch, int):
        return there
    alone = replace(world, rank=0, size=1)
    engine: Any = tasks.of_recipe(recipe).engine(train_images)
    task = engine(recipe, plan, train_images, val_images, alone, folder, lambda *_, **__: None)
    return largest_batch(task, plan)


def changed_files(spec: Any, images: Any, folder: Path) -> list[Path]:
    """Files of images that are newer than the run's newest checkpoint; of very many, those of `LOOKED_AT` at equal distances."""
    from convnext.runtime.names import CHECKPOINTS

    saved = [path.stat().st_mtime for path in (folder / CHECKPOINTS).glob("step-*")]
    if not saved:
        return []
    files = (spec.file(images, i) for i in range(0, len(images), -(-len(images) // LOOKED_AT)))
    return [file for file in files if file and file.exists() and file.stat().st_mtime > max(saved)]


def _fetch(name: str, recipe: Recipe) -> None:
    """Download the weights to start from, once and with a bar; without them, the message says how to start otherwise."""
    from convnext.weights.fetched import fetched

    try:
        fetched(str(recipe.model.weights))
    except ConvNextError as error:
        other = [n for n, r in recipes.recipes().items() if n.startswith("small/") and r.task == recipe.task]
        without = next((n for n in other if not recipes.get(n).model.weights), None) or f"{name} --from-scratch"
        raise ConvNextError(
            f"{error} To start from random weights instead: convnext train {without} --data {recipe.data}"
        ) from error


def _check_validation(spec: Any, images: Any, console: Out) -> None:
    """Raise the first problem that evaluation would meet, before a step is trained: an hour later would be late to hear."""
    from convnext.console import progress_bar
    from convnext.data.readable import check_readable
    from convnext.files import cache_folder

    if not len(images):
        return
    with progress_bar("checking the validation images", not console.quiet) as progress:
        key, memory = f"{spec.name} {spec.fingerprint(images)}", cache_folder() / "checked"
        if problem := check_readable(images, progress=progress, key=key, memory=memory):
            raise problem


def _finish(folder: Path, state: State, task: DataTask, console: Out) -> None:
    """Write the summary and the curves; print both and the next commands."""
    from convnext.console import print_table, table
    from convnext.engine.recorder import read_lines
    from convnext.files import replace_text, to_json
    from convnext.report.curves import draw_curves
    from convnext.runtime.names import CURVES, METRICS, RUN_FILES, SUMMARY
    from convnext.task.results import interval

    evaluations = [record for record in read_lines(folder / METRICS) if record["kind"] == "eval"]
    last = evaluations[-1] if evaluations else {}
    summary = {
        "final": last,
        "best": state.best,
        "metric": task.metric,
        "steps": state.step,
        "skipped_steps": state.skipped,
    }
    replace_text(folder / SUMMARY, to_json(summary, indent=2) + "\n")
    draw_curves(folder)
    labels = {"raw": "final weights", "ema": "their moving average (EMA)"}
    if not evaluations:
        which = labels[state.best["weights"] if state.best else "raw"].removeprefix("their ")
        console.print(
            f"Nothing was held out to evaluate on: {RUN_FILES['best']} holds the {which}. Curves: {folder / CURVES}"
        )
        _say_next(console, f"predict {folder} IMAGES...", f"evaluate {folder} --data DIR")
        return
    columns = [column for column in task.columns if f"raw/{column[0]}" in last]
    rows = [
        (text, RUN_FILES[label], *(f"{last[f'{label}/{metric}']:.{digits}f}" for metric, _, digits in columns))
        for label, text in labels.items()
        if f"{label}/{columns[0][0]}" in last
    ]
    held_out = len(task.val)
    header = (f"on {held_out:,} held-out images, {task.precision}", "file", *(title for _, title, _ in columns))
    print_table(console, table(header, rows, left=2))
    if best := state.best:
        _, title, digits = next(column for column in task.columns if column[0] == task.metric)
        console.print(
            f"Best: {title.removesuffix(' %')} {best['score']:.{digits}f} ({labels[best['weights']]}, step "
            f"{best['step']}) in {RUN_FILES['best']}. Curves: {folder / CURVES}"
        )
        if task.counted and task.metric == columns[0][0] and (between := interval(best["score"], held_out)):
            console.print(
                f"It was chosen on the same {held_out:,} images that it is measured on, so it is a little too high; with 95 % "
                f"confidence it is {between} %."
            )
    else:
        console.print(f"No weights are the best: none gave finite numbers. Curves: {folder / CURVES}")
    _say_next(console, f"predict {folder} IMAGES...", f"evaluate {folder}", f"report curves {folder}")


def _say_next(console: Out, *commands: str) -> None:
    """Print the commands that people give next, each in one piece, so that it can be copied."""
    from convnext.layout import hanging

    first, *more = (f"convnext {command}" for command in commands)
    width = console.width if console.is_terminal else None
    console.print(hanging(f"Next:  {first}", more, width), soft_wrap=True)
