"""The folder of a run: its config, environment and state (new, unfinished, finished), and a lock while it trains."""

import json
import os
import platform
import sys
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from convnext import __version__
from convnext.errors import ConvNextError
from convnext.files import clear_leftovers, is_leftover, is_utf8, replace_text
from convnext.recipes.diff import difference
from convnext.recipes.optim import AdamW
from convnext.recipes.ranges import check_ranges
from convnext.recipes.schema import Recipe
from convnext.runtime.names import CHECKPOINTS, CONFIG, ENVIRONMENT, LOCK, METRICS, SUMMARY

# the data has its own check: a fingerprint in the checkpoint; of the device's batch a line says that it changes the last bits
NOT_THE_RESULT = ("runtime.", "source", "data", "read.", "published_precision", "device_batch", "track")


def claim(folder: Path, name: str, recipe: Recipe) -> str:
    """Prepare `folder` for a run of `recipe`: "new", "unfinished" (continue it) or "finished" (nothing to do).

    Raises:
        ConvNextError: its name is not UTF-8, it holds a run of another config, or other files, or cannot be written.
    """
    if not is_utf8(folder):
        raise ConvNextError(f"The name of the run's folder {folder} is not UTF-8. Give another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        for place in (folder, folder / CHECKPOINTS):
            clear_leftovers(place)
        if not (folder / CONFIG).exists():
            if not _is_free(folder):
                raise ConvNextError(
                    f"The folder {folder} is not empty and holds no run. Give another --out, or empty it."
                )
            config = {"name": name, "task": recipe.task, **asdict(recipe)}
            replace_text(folder / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
            replace_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")  # last: with it the folder is a run's
            return "new"
    except OSError as error:
        raise ConvNextError(f"The run's folder {folder} cannot be written: {error}. Give another --out.") from error
    differences = result_differences(read_config(folder)[1], recipe)
    if differences:
        table = "; ".join(f"{field}: {there!r} there, {here!r} now" for field, there, here in differences)
        raise ConvNextError(
            f"The folder {folder} holds a run of another config ({table}). Give the same options to continue it, or another --out."
        )
    return "finished" if (folder / SUMMARY).exists() else "unfinished"


def result_differences(one: Recipe, other: Recipe) -> list[tuple[str, object, object]]:
    """The differences that change a run's result."""
    rows = [row for row in difference(one, other) if not row[0].startswith(NOT_THE_RESULT)]
    kept = one.runtime.kept_side, other.runtime.kept_side
    return rows if kept[0] == kept[1] else [*rows, ("side of cached images (--runtime.cache)", *kept)]


def choose_folder(name: str, recipe: Recipe, root: Path = Path("runs")) -> Path:
    """`runs/NAME`, or the first of `runs/NAME-2`, `-3`, .. that is free or holds an unfinished run of this recipe."""
    stem = name.replace("/", "-")
    number = 1
    while True:
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        if not (folder / CONFIG).exists():
            if not folder.exists() or _is_free(folder):
                return folder
        elif not (folder / SUMMARY).exists() and not result_differences(read_config(folder)[1], recipe):
            return folder
        number += 1


def _is_free(folder: Path) -> bool:
    """True if the folder holds nothing but what a command left that was killed before its run began."""
    return all(entry.name in (LOCK, ENVIRONMENT) or is_leftover(entry) for entry in folder.iterdir())


def is_run(folder: Path) -> bool:
    """True if a training has begun in the folder; other libraries' folders have a config.json too, but no metrics."""
    return (folder / CONFIG).exists() and (folder / METRICS).exists()


def read_config(folder: Path) -> tuple[str, Recipe]:
    """The name and the recipe of the run in `folder`, strictly checked.

    Raises:
        ConvNextError: there is no run, or its config is damaged or of another version.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name, task = values.pop("name"), values.pop("task")
        if task not in Recipe.kinds:
            raise ValueError(
                f"its task {task!r} is none of {', '.join(Recipe.kinds)}; import the module that defines it"
            )
        kind, given = Recipe.kinds[task], set(values["optim"])
        usual = type(kind().optim)
        optims = [each for each in (usual, *AdamW.kinds) if given <= {field.name for field in fields(each)}]
        optim = TypeAdapter(optims[0] if optims else usual).validate_python(values.pop("optim"))
        recipe = replace(TypeAdapter(kind).validate_python(values), optim=optim)
        check_ranges(recipe)
        return name, recipe
    except FileNotFoundError as error:
        raise ConvNextError(
            f"{folder} holds no run (no {CONFIG}). Give the folder that `convnext train` wrote."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConvNextError(f"The config of the run in {folder} is not valid: {where}: {first['msg']}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConvNextError) as error:
        raise ConvNextError(f"The config of the run in {folder} cannot be read: {error}.") from error


_locks: dict[Path, FileLock] = {}  # held until the process ends


def _lock(folder: Path) -> None:
    """Keep two commands from training into one folder; the system releases the lock when the process dies."""
    lock = _locks.setdefault(folder.resolve(), FileLock(folder / LOCK))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConvNextError(f"Another process is training in {folder}. Wait for it, or give another --out.") from error


def environment() -> dict:
    """The facts that a run needs to be repeated besides its config: command, versions, platform, devices."""
    import torch

    def version_of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    packages = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "scikit-learn", "pyarrow")
    return {
        "command": " ".join(["convnext", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "convnext": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {package: version_of(package) for package in packages},
    }
