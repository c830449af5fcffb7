"""`convnext predict MODEL IMAGES ...`: the same verb for every task."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convnext.cli.parsing import Images, Model, Precision, parse, require_model, task_options, with_task_options
from convnext.console import print_table, progress_bar, stderr, stdout, table
from convnext.errors import ConvNextError
from convnext.files import to_json
from convnext.layout import counted
from convnext.recipes.ranges import BATCH, SIDE, ranged

if TYPE_CHECKING:
    from convnext.task.inputs import Input
    from convnext.trained import Trained

LOOK = 1.0
"""Seconds between two looks into a watched folder."""
DESCRIPTION = """Classify images, find objects in them, or label their pixels: a table on the terminal, or JSON lines.

    convnext predict runs/small-finetune holiday/*.jpg
    convnext predict model.safetensors photos/ --top-k 3 --json > predictions.jsonl
    convnext predict runs/small-detect street.jpg --threshold 0.5 --out found
    convnext predict runs/small-finetune holiday/*.jpg --explain
    convnext predict upernet_convnext_tiny.ade20k_512 street.jpg --mode multi-scale
    convnext predict runs/small-finetune https://example.org/cat.jpg clip.mp4 --every 0.5
    convnext predict runs/small-finetune --watch incoming --json

Detectors and segmenters write drawn images to --out (predictions/), classifiers where --out or --explain is given. Images that are
read are never overwritten, other files only with --overwrite.

Exit code 2 if an image could not be read; the others are still answered. --watch ends with Ctrl-C and 0."""


@dataclass(frozen=True)
class Predict:
    """Options of `predict` for every task."""

    model: Model
    """A run's folder, a checkpoint file, a file of `convnext export`, or a name of the catalog."""
    images: Images
    """Image files, folders (walked), globs, http(s) addresses of images, or videos (extra `video`)."""
    every: float = ranged(1.0, at_least=0)
    """Seconds between the frames that are taken of a video, as --every 0.5; 0: all frames."""
    watch: Path | None = None
    """Folder whose new images are answered as they arrive, until Ctrl-C, as --watch incoming."""
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
    """Precision of the arithmetic; auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU, where
    bf16 can be faster: docs/speed.md. int8 needs a file of `convnext export --format convnext-int8`, which has it by itself."""
    trust: bool = False
    """Open exported files of formats that can run code of whoever made them."""
    verify: bool = True
    """Compare weights with the digest in their file; --no-verify saves some time with large models."""


def run(argv: list[str]) -> int:
    require_model(argv, "predict")
    arguments: Any = parse(with_task_options(Predict, "predict_options"), argv, "predict", DESCRIPTION)

    from convnext.task.inputs import inputs_of
    from convnext.trained import check_name, load

    check_name(arguments.model)
    if not arguments.images and not arguments.watch:
        raise ConvNextError(
            "Name the images after the model: files, folders or globs, such as `convnext predict runs/quickstart photos/`."
        )
    if arguments.watch and not arguments.watch.is_dir():
        raise ConvNextError(
            f"--watch {arguments.watch}: there is no such folder. Make it first, then let files arrive in it."
        )
    inputs, _ = inputs_of(arguments.images, arguments.every)
    options = ("device", "precision", "trust", "verify", "weights", "image_size")
    model = load(arguments.model, **{option: getattr(arguments, option) for option in options})
    facts = [
        str(model.opened.loaded.source),
        counted(len(model.classes), "class", "classes"),
        model.spec.size_text(model.opened.loaded),
        str(model.device),
    ]
    answering = Answering(arguments, model)
    answering.err.print(", ".join(filter(None, facts)), style="dim")
    if model.note:
        answering.err.print(model.note)
    if inputs:
        answering.answer(inputs)
    if arguments.watch:
        watch(arguments.watch, answering)
    answering.finish()
    return 2 if answering.failed and not arguments.watch else 0


def watch(folder: Path, answering: "Answering") -> None:
    """Answer for the images that arrive in a folder, until Ctrl-C, which is the way to end it."""
    from convnext.data.watch import arrivals
    from convnext.task.inputs import of_file

    with suppress(KeyboardInterrupt):
        looks = arrivals(folder, lambda: time.sleep(LOOK))  # what comes from now on is new
        answering.err.print(f"Waiting for images in {folder}; Ctrl-C ends.", style="dim")
        for files in looks:
            if files:
                answering.answer([of_file(file) for file in files])


class Answering:
    """Images through a model, their answers on the terminal and in files; once for all images or as they come."""

    def __init__(self, arguments: Any, model: "Trained"):
        self.arguments, self.model, self.spec = arguments, model, model.spec
        self.options = task_options(arguments, model.spec, arguments.model)
        self.out, self.err = stdout(), stderr()
        default = self.spec.folder(self.spec.predict_options(**self.options))
        self.folder = arguments.out or (Path(default) if default and not arguments.json else None)
        self.kept: list[Any] = []
        self.failed = 0
        self.writer = Writer(self.folder, arguments.overwrite)

    def answer(self, inputs: list["Input"]) -> None:
        """Answer for these images, print and write."""
        from convnext.task.results import Failure

        rows: list[tuple[str, ...]] = []
        answers = self.model.answers(inputs, self.arguments.batch, **self.options)
        self.writer.expect([each.name for each in inputs], self.spec.collected())
        shown = not (self.arguments.json and self.out.is_terminal)
        with progress_bar(self.spec.doing, shown, self.err) as progress:
            for number, (source, answer) in enumerate(zip(inputs, answers, strict=True)):
                if self.arguments.json:
                    time_stamp = {} if source.seconds is None else {"seconds": source.seconds}
                    print(to_json(answer.to_dict() | time_stamp), flush=True)
                if isinstance(answer, Failure):
                    self.failed += 1
                    text = answer.error if answer.name in answer.error else f"{answer.name}: {answer.error}"
                    self.err.print(text, style="red")
                    rows.append((source.name, "no answer"))
                else:
                    rows += [(source.name if k == 0 else "", *cells) for k, cells in enumerate(answer.summary())]
                    self.writer.save(answer, number)
                    if self.folder and self.spec.collected():
                        self.kept.append(answer)
                progress(number + 1, len(inputs))
        if not self.arguments.json and rows:
            width = max(map(len, rows))
            filled = [row + ("",) * (width - len(row)) for row in rows]
            print_table(self.out, table(("image", "answer", "")[:width], filled, left=2))

    def finish(self) -> None:
        """Write what belongs to all images together."""
        if self.folder:
            if self.kept or self.spec.collected():
                self.spec.write(self.kept, self.model.opened.loaded, self.folder)
            (self.err if self.arguments.json else self.out).print(f"Written: {self.folder}")


class Writer:
    """Files of a `predict`: none of them is one that was read, and none replaces another unless that is asked for."""

    def __init__(self, folder: Path | None, overwrite: bool):
        self.folder, self.overwrite = folder, overwrite
        self.names: list[str] = []
        self.inputs: set[Path] = set()
        self.stems: list[str] = []
        self.first = 0
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def expect(self, names: list[str], collected: tuple[str, ...]) -> None:
        """Name the inputs of the next answers, which are numbered from 0 again, and the files about all of them together."""
        self.first, self.stems = len(self.names), []
        self.names += names
        self.inputs |= {Path(name).resolve() for name in names}
        if self.folder and not self.first:
            for name in collected:
                self._check(self.folder / name)

    def save(self, answer: Any, number: int) -> None:
        """Write the files of the answer to input `number` of those that `expect` named."""
        from convnext.data.find import output_stems

        if self.folder:
            self.stems = self.stems or output_stems(self.names, answer.files)
            for ending in answer.files:
                self._check(self.folder / f"{self.stems[self.first + number]}{ending}")
            answer.save(self.folder, self.stems[self.first + number])

    def _check(self, path: Path) -> None:
        if path.resolve() in self.inputs:
            raise ConvNextError(
                f"{path} is an image that is read here, and would be overwritten. Give another folder: --out."
            )
        if path.exists() and not self.overwrite:
            raise ConvNextError(f"{path} is there already. Give --overwrite to replace such files, or another --out.")
