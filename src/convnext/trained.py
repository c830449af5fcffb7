"""From what a person names (a run's folder, a file, a name of the catalog) to the model in it, for every task."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from convnext.errors import ConvNextError
from convnext.runtime.run_folder import RUN_FILES, is_run, read_config
from convnext.weights.infer import task
from convnext.weights.load import Checkpoint, load_model, read_checkpoint


def open_trained(name: str, which: str, build: Callable[..., nn.Module]) -> tuple[nn.Module, Checkpoint, str]:
    """The model, its checkpoint with the metadata, and where it was.

    Args:
        name: a checkpoint file of any known format, a run's folder, or a name of the catalog.
        which: of a run: "best", "raw" or "ema"; of a file that holds both: "raw" or "ema".
        build: see `load_model`.

    Raises:
        ConvNextError: nothing readable is there, or it is a model of another task.
    """
    file = run_file(Path(name), which)
    model, checkpoint = load_model(str(file or name), which if not file and which != "best" else "auto", build=build)
    return model, checkpoint, str(file or name)


def task_of(name: str) -> str:
    """classification, detection or segmentation: what the model of that name is for. `name` as in `open_trained`."""
    if is_run(Path(name)):
        return read_config(Path(name))[1].task
    checkpoint = read_checkpoint(name)
    return checkpoint.metadata.get("task") or task(checkpoint.tensors)


def run_file(folder: Path, which: str = "best") -> Path | None:
    """The weights of a run that `which` names; None when `folder` is something else.

    Raises:
        ConvNextError: the run has not written them yet.
    """
    if not is_run(folder):
        return None
    file = folder / RUN_FILES[which]
    if not file.exists():
        there = available(str(folder))
        raise ConvNextError(
            f"The run in {folder} has no {file.name}"
            + (f"; it has: {', '.join(there)}." if there else " yet: it writes weights at its first evaluation.")
        )
    return file


def available(name: str) -> list[str]:
    """Which weights there are: of a run's folder, the files that it has written; of a checkpoint, the sets it holds."""
    if is_run(Path(name)):
        return [which for which, file in RUN_FILES.items() if (Path(name) / file).exists()]
    return list(read_checkpoint(name).available)
