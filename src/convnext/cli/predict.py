"""`convnext predict MODEL IMAGES ...`: the same verb for every task."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from convnext.cli.parsing import Images, Model, Precision, parse, require_model, task_options, with_task_options
from convnext.console import print_table, progress_bar, stderr, stdout, table
from convnext.errors import ConvNextError
from convnext.files import to_json
from convnext.layout import counted
from convnext.recipes.ranges import BATCH, SIDE, ranged

DESCRIPTION = """Classify images, find objects in them, or label their pixels: a table on the terminal, or JSON lines.

    convnext predict runs/small-finetune holiday/*.jpg
    convnext predict model.safetensors photos/ --top-k 3 --json > predictions.jsonl
    convnext predict runs/small-detect street.jpg --threshold 0.5 --out found
    convnext predict runs/small-finetune holiday/*.jpg --explain
    convnext predict upernet_convnext_tiny.ade20k_512 street.jpg --mode multi-scale

Detectors and segmenters write drawn images to --out (predictions/), classifiers where --out or --explain is given. Images that are
read are never overwritten, other files only with --overwrite.

Exit code 2 if an image could not be read; the others are still answered."""


@dataclass(frozen=True)
class Predict:
    """Options of `predict` for every task."""

    model: Model
    """A run's folder, a checkpoint file, a file of `convnext export`, or a name of the catalog."""
    images: Images
    """Image files, folders (walked), or globs."""
    json: bool = False
    """Print one JSON object per line: file, and answer or error."""
    out: Path | None = None
    """Folder for the drawn images and result files."""
    overwrite: bool = False
    """Replace files of --out that are there already."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Weights of a run."""
    image_size: int | None = ranged(None, **SIDE)
    """Side in pixels, if not the checkpoint's."""
    batch: int | None = ranged(None, **BATCH)
    """Images at once; by default 64 for a classifier, 1 for others."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    precision: Precision = "auto"
    """Precision of the arithmetic; auto: the fastest that the device computes well in. int8 needs a file of `convnext export
    --format convnext-int8`, which has it by itself."""
    trust: bool = False
    """Open exported files of formats that can run code of whoever made them."""
    verify: bool = True
    """Compare weights with the digest in their file; --no-verify saves some time with large models."""


def run(argv: list[str]) -> int:
    require_model(argv, "predict")
    arguments: Any = parse(with_task_options(Predict, "predict_options"), argv, "predict", DESCRIPTION)

    from convnext.task.inputs import inputs_of
    from convnext.task.results import Failure
    from convnext.trained import check_name, load

    check_name(arguments.model)
    if not arguments.images:
        raise ConvNextError(
            "Name the images after the model: files, folders or globs, such as `convnext predict runs/quickstart photos/`."
        )
    inputs, _ = inputs_of(arguments.images)
    how = ("device", "precision", "trust", "verify", "weights", "image_size")
    model = load(arguments.model, **{option: getattr(arguments, option) for option in how})
    spec, out, err = model.spec, stdout(), stderr()
    options = task_options(arguments, spec, arguments.model)
    answers = model.answers(inputs, arguments.batch, **options)
    default = spec.folder(spec.predict_options(**options))
    names = [each.name for each in inputs]
    folder = arguments.out or (Path(default) if default and not arguments.json else None)
    facts = [
        str(model.opened.loaded.source),
        counted(len(model.classes), "class", "classes"),
        spec.size_text(model.opened.loaded),
    ]
    err.print(", ".join(filter(None, [*facts, str(model.device)])), style="dim")
    if model.note:
        err.print(model.note)
    rows: list[tuple[str, ...]] = []
    kept, failed, writer = [], 0, Writer(folder, names, arguments.overwrite, spec.collected())
    with progress_bar(spec.doing, not (arguments.json and out.is_terminal), err) as progress:
        for number, answer in enumerate(_counted(answers, progress, len(inputs))):
            broken = isinstance(answer, Failure)
            failed += broken
            if arguments.json:
                print(to_json(answer.to_dict()), flush=True)
            if isinstance(answer, Failure):
                text = answer.error if answer.name in answer.error else f"{answer.name}: {answer.error}"
                err.print(text, style="red")
                rows.append((names[number], "no answer"))
                continue
            rows += [(names[number] if k == 0 else "", *cells) for k, cells in enumerate(answer.summary())]
            writer.save(answer, number)
            if folder and spec.collected():
                kept.append(answer)
    if not arguments.json and rows:
        width = max(map(len, rows))
        print_table(
            out, table(("image", "answer", "")[:width], [row + ("",) * (width - len(row)) for row in rows], left=2)
        )
    if folder:
        spec.write(kept, model.opened.loaded, folder) if kept or spec.collected() else None
        (err if arguments.json else out).print(f"Written: {folder}")
    return 2 if failed else 0


def _counted(answers: Iterator, progress: Any, total: int) -> Iterator:
    for number, answer in enumerate(answers):
        yield answer
        progress(number + 1, total)


class Writer:
    """Files of a `predict`: none of them is one that was read, and none replaces another unless that is asked for."""

    def __init__(self, folder: Path | None, inputs: list[str], overwrite: bool, collected: tuple[str, ...]):
        self.folder, self.overwrite, self.names = folder, overwrite, inputs
        self.inputs = {Path(name).resolve() for name in inputs}
        self.stems: list[str] = []
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for name in collected:
                self._check(folder / name)

    def save(self, answer: Any, number: int) -> None:
        """Write the files of the answer to input `number`."""
        from convnext.data.find import output_stems

        if self.folder:
            self.stems = self.stems or output_stems(self.names, answer.files)
            for ending in answer.files:
                self._check(self.folder / f"{self.stems[number]}{ending}")
            answer.save(self.folder, self.stems[number])

    def _check(self, path: Path) -> None:
        if path.resolve() in self.inputs:
            raise ConvNextError(
                f"{path} is an image that is read here, and would be overwritten. Give another folder: --out."
            )
        if path.exists() and not self.overwrite:
            raise ConvNextError(f"{path} is there already. Give --overwrite to replace such files, or another --out.")
