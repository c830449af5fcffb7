"""The options that `evaluate` and `predict` share over all tasks, and how both find the task of a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from convnext.cli.common import fetched, stderr

if TYPE_CHECKING:  # PIL is not on the path of --help
    from PIL.Image import Image


@dataclass(frozen=True)
class EvaluateOptions:
    """What `evaluate` takes for every task."""

    model: tyro.conf.Positional[str]
    """A run's folder, a checkpoint file, a file of `convnext export`, or a name of the catalog."""
    data: str | None = None
    """Labelled images, as for `train`; a run's own held-out images if not given."""
    weights: Literal["both", "best", "raw", "ema"] = "both"
    """Which weights of a run, or of a training checkpoint that holds both; `both`: the final raw and EMA weights."""
    out: Path | None = None
    """Folder for the results; RUN/evaluation for a run, none for a file."""
    workers: int | None = None
    """Processes that load data; none given: as in training."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


@dataclass(frozen=True)
class PredictOptions:
    """What `predict` takes for every task."""

    model: tyro.conf.Positional[str]
    """A run's folder, a checkpoint file, a file of `convnext export`, or a name of the catalog."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders (walked), or globs."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Which weights of a run."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


def by_task(verb: str, argv: list[str], description: str) -> int:
    """Hand `argv` to the verb of the task that the model in it is for; `--help` without a model is of classification."""
    from convnext.errors import ConvNextError

    if not argv:
        raise ConvNextError(
            f"Name a model: a run's folder, a checkpoint file, or a name of the catalog. `convnext {verb} --help`"
        )
    task = "classification"
    if argv[0] not in ("-h", "--help"):
        word = next((word for word in argv if not word.startswith("-")), argv[0])
        if is_exported(word):
            task, argv = exported_task(word, argv), on_cpu(argv)
        else:
            from convnext.trained import task_of

            task = task_of(fetched(word))
    run: Callable[[list[str], str], int] = getattr(import_module(f"convnext.cli.{task}"), verb)
    return run(argv, description)


def is_exported(name: str) -> bool:
    """Whether a path is that of a file of `convnext export`."""
    from convnext.export.runtime import is_exported

    return is_exported(name)


def exported_task(name: str, argv: list[str]) -> str:
    """The task of an exported file.

    Raises:
        ConvNextError: the file is not readable, or `argv` asks for another precision than it has.
    """
    from convnext.errors import ConvNextError
    from convnext.export.runtime import read_metadata

    metadata = read_metadata(name)
    if any(word.partition("=")[0] == "--precision" for word in argv):
        raise ConvNextError(f"{name} computes in its own precision, {metadata.precision}: leave out --precision.")
    return metadata.task


def on_cpu(argv: list[str]) -> list[str]:
    """With the CPU as the device, which is where exported files run, unless another one is named."""
    named = any(word.partition("=")[0] == "--device" for word in argv)
    return argv if named else [*argv, "--device", "cpu"]


def weights_wanted(options: EvaluateOptions, model: str) -> list[str]:
    """The weights that `--weights` means for this model: of a run or a training checkpoint, both where there are both."""
    if is_exported(model):
        return ["best"]
    if options.weights != "both":
        return [options.weights]
    from convnext.trained import available

    return ["raw", "ema"] if {"raw", "ema"} <= set(available(model)) else ["best"]


def with_world(arguments: EvaluateOptions, run: Callable[[EvaluateOptions, object], int]) -> int:
    """`run(arguments, world)` among the processes that torchrun started, if it did."""
    from convnext.runtime import world as distributed

    world = distributed.start(arguments.device)
    try:
        return run(arguments, world)
    finally:
        distributed.stop()


@contextmanager
def progress_bar(what: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr; yields what is told how much is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    err = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal)) as bar:
        item = bar.add_task(what, total=total)
        yield lambda done: bar.update(item, completed=done)


@contextmanager
def counted_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr for work whose extent shows when it begins; yields what is told (done, total)."""
    from rich.progress import Progress

    err = stderr()
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        item = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(item, completed=done, total=total)


class Pictures:
    """The images of a `predict`, decoded one after the other under a progress bar; those that cannot be read are said and
    counted in `failed`."""

    def __init__(self, names: tuple[str, ...], what: str):
        from convnext.data.find import find_images

        self.files, self.what, self.failed = find_images(names), what, 0

    def __iter__(self) -> Iterator["tuple[int, str, str, Image]"]:
        """(number, file, a name for what is written about it, RGB picture)."""
        from convnext.data.find import output_stems
        from convnext.data.images import ImageError, decode

        with progress_bar(self.what, len(self.files)) as progress:
            for number, (file, stem) in enumerate(zip(self.files, output_stems(self.files), strict=True)):
                try:
                    image = decode(file)
                except ImageError as error:
                    self.failed += 1
                    stderr().print(f"[red]{error}[/]")
                    continue
                yield number, file, stem, image
                progress(number + 1)


def worst_first(best: str, shown: int, seen: int) -> str:
    """The title of a table of classes."""
    return f"per class ({best}), worst first" + (f", {shown} of {seen}" if shown < seen else "")
