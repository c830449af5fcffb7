"""The options that `evaluate` and `predict` share over all tasks, and how both find the task of a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import tyro

from convnext.cli.common import fetched, stderr


@dataclass(frozen=True)
class EvaluateOptions:
    """What `evaluate` takes for every task."""

    model: tyro.conf.Positional[str]
    """A run's folder, a checkpoint file, or a name of the catalog."""
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
    """A run's folder, a checkpoint file, or a name of the catalog."""
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
        from convnext.trained import task_of

        word = next((word for word in argv if not word.startswith("-")), argv[0])
        task = task_of(fetched(word))
    run: Callable[[list[str], str], int] = getattr(import_module(f"convnext.cli.{task}"), verb)
    return run(argv, description)


def weights_wanted(options: EvaluateOptions, model: str) -> list[str]:
    """The weights that `--weights` means for this model: of a run or a training checkpoint, both where there are both."""
    if options.weights != "both":
        return [options.weights]
    from convnext.trained import available

    return ["raw", "ema"] if {"raw", "ema"} <= set(available(model)) else ["best"]


def with_world(arguments: EvaluateOptions, run: Callable[[EvaluateOptions, object], int]) -> int:
    """`run(arguments, world)` among the processes that torchrun started, if it did."""
    from convnext.train import distributed

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
