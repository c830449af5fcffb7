"""The registry of tasks, and what needs no task's name: models by name, and trained models from files and run folders."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext.errors import ConvNextError, nearest
from convnext.task.names import MARK
from convnext.task.spec import Loaded, TaskSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from convnext.recipes.schema import Recipe
    from convnext.weights.load import Checkpoint

_MODULES = {name: f"convnext.{name}.spec" for name in ("classification", "detection", "segmentation")}
_registered: dict[str, TaskSpec] = {}


def register(spec: TaskSpec) -> None:
    """Make a task known: its recipes, models and files then work with every verb and with the Python API."""
    from convnext import recipes

    _registered[spec.name] = spec
    for name, recipe in spec.recipes.items():
        recipes.register(name, recipe)


def names() -> list[str]:
    """Names of all tasks."""
    return [*_MODULES, *(name for name in _registered if name not in _MODULES)]


def get(name: str) -> TaskSpec:
    """The task of that name.

    Raises:
        ConvNextError: there is none.
    """
    if name not in _registered:
        if name not in _MODULES:
            raise ConvNextError(f"There is no task {name!r}.{nearest(name, names())} There are: {', '.join(names())}.")
        _registered[name] = import_module(_MODULES[name]).SPEC
    return _registered[name]


def specs() -> list[TaskSpec]:
    """All tasks."""
    return [get(name) for name in names()]


def of_recipe(recipe: Recipe) -> TaskSpec:
    """The task of a recipe."""
    return get(recipe.task)


# -- models


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, filtered by a glob such as "convnext_*"."""
    return [name for spec in specs() for name in spec.models() if fnmatch(name, pattern)]


def of_model(name: str) -> TaskSpec:
    """The task that the model of that name is for.

    Raises:
        ConvNextError: there is no such model.
    """
    heads, mark, _ = name.partition(MARK)  # a network of timm under the heads of a task
    for spec in specs():
        if name in spec.models() or (mark and any(known.startswith(f"{heads}_") for known in spec.models())):
            return spec
    raise ConvNextError(f"There is no model {name!r}.{nearest(name, list_models())} `convnext info models` lists them.")


def create_model(name: str, weights: str | None = None, new_head: bool = False, **options: Any) -> nn.Module:
    """Build a model by name, in training mode.

    Args:
        name: one of `list_models()`.
        weights: a checkpoint file of any known format, a folder saved by `save_pretrained`, or a name of the catalog;
            None for random initialisation. Options that are not given are the checkpoint's: its number of classes, its
            LayerScale or lack of it, its stem.
        new_head: keep the fresh classifier when the checkpoint's has another number of classes.
        options: of the model: num_classes (1000, 80 for a detector, 150 for a segmenter; None makes a ConvNeXt without
            head, a backbone), in_chans, drop_path_rate, layer_scale_init_value; for classifiers head_init_scale,
            stem_stride; for detectors and segmenters checkpoint_backbone.

    Raises:
        ConvNextError: an unknown name or option, or a checkpoint that is unreadable or of another model.
    """
    spec = of_model(name)
    if weights is None:
        return spec.build(name, **options)
    from convnext.weights.load import load_model

    given = {"build": spec.build, "identify": spec.identify}
    model, checkpoint = load_model(weights, new_head=new_head, **given, name=name, **options)
    if checkpoint.report and checkpoint.report.adapted:
        warnings.warn(checkpoint.report.adapted, stacklevel=2)
    return model


def from_pretrained(folder_or_repo_id: str, **options: Any) -> tuple[nn.Module, Checkpoint]:
    """The model of any task in a local folder or a Hub repository, and its checkpoint with the metadata.

    Args:
        options: of the model, and `new_head`; see `create_model`.

    Raises:
        ConvNextError: no such folder or repository, no connection, or it holds no ConvNeXt.
    """
    from convnext.weights import hub

    def build(name: str, **given: Any) -> nn.Module:
        return of_model(name).build(name, **given)

    return hub.from_pretrained(folder_or_repo_id, build=build, identify=identify, **options)


def identify(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The name and options of the model of any task with these tensors; None if there is none."""
    return next((told for spec in specs() if (told := spec.identify(tensors))), None)


# -- trained models


@dataclass
class Opened:
    """A trained model with its task, and the recipe of its training, as far as its files tell."""

    spec: TaskSpec
    loaded: Loaded
    recipe: Recipe | None = None

    @property
    def data_recipe(self) -> Recipe | None:
        """A recipe that says which data the model was trained on, and how that was split; None if nothing tells."""
        if self.recipe:
            return self.recipe
        told = self.loaded.metadata.get("split")
        if not isinstance(told, dict) or not told.get("data"):
            return None
        plain, standard = (str, int, float, bool, type(None)), self.spec.recipe()
        known = {
            key: value
            for key, value in told.items()
            if isinstance(value, plain) and isinstance(getattr(standard, key, self), plain)
        }
        given = told["read"] if isinstance(told.get("read"), dict) else {}
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return replace(standard, read=replace(standard.read, **given), **known)


def open_trained(
    name: str, which: str = "best", device: torch.device | None = None, image_size: int | None = None
) -> Opened:
    """Open a trained model of any task.

    Args:
        name: a checkpoint file of any known format, a run's folder, or a name of the catalog.
        which: of a run: "best", "raw" or "ema"; of a file that holds both: "raw" or "ema".
        device: where to put it; the CPU if None.
        image_size: use it at another size than its file says.

    Raises:
        ConvNextError: nothing readable is there.
    """
    return next(iter(open_weights(name, [which], device, image_size).values()))


def open_weights(
    name: str,
    wanted: Sequence[str] | None,
    device: torch.device | None = None,
    image_size: int | None = None,
    verify: bool = True,
) -> dict[str, Opened]:
    """Open several weights of one model, reading each file once.

    Args:
        wanted: names as for `open_trained`; None: of a run all that it has written, of a file all that it holds.
        name, device, image_size: as for `open_trained`.
        verify: compare our own files with the digest that they carry.

    Returns:
        The models by the names of their weights, the ones in use ("best") first.

    Raises:
        ConvNextError: nothing readable is there, or a run has not written the weights yet.
    """
    from convnext.runtime.run_folder import is_run, read_config
    from convnext.weights.load import read_checkpoint, read_sets

    folder = Path(name)
    if is_run(folder):
        recipe = read_config(folder)[1]
        files = {which: run_file(folder, which) for which in wanted or written_weights(folder) or ["best"]}
        sets = {which: read_checkpoint(file, verify=verify) for which, file in files.items()}
    else:
        recipe, sets = None, read_sets(name, verify)
        if wanted and set(wanted) <= set(sets):
            sets = {which: sets[which] for which in wanted}
        elif wanted and wanted != ["best"]:
            raise ConvNextError(f"{name} holds no {wanted[0]!r} weights, only {' and '.join(map(repr, sets))}.")
        elif wanted or len(sets) == 1:
            sets = {"best": next(iter(sets.values()))}
    return {which: opened(checkpoint, recipe, device, image_size) for which, checkpoint in sets.items()}


def opened(
    checkpoint: Checkpoint, recipe: Recipe | None, device: torch.device | None, image_size: int | None
) -> Opened:
    """The model in a checkpoint that has been read."""
    from convnext.models.block import filled_later
    from convnext.weights.load import fill, identified

    spec = of_checkpoint(checkpoint)
    with filled_later():
        module = spec.build(**identified(checkpoint, spec.identify))
    fill(module, checkpoint)
    module = module.eval() if device is None else module.to(device).eval()
    metadata = {**checkpoint.metadata, "format": checkpoint.format}
    return resized(Opened(spec, spec.load(module, metadata, str(checkpoint.path)), recipe), image_size)


def of_checkpoint(checkpoint: Checkpoint) -> TaskSpec:
    """The task that a checkpoint's metadata states, or that its tensors show."""
    stated = checkpoint.metadata.get("task")
    if isinstance(stated, str):
        return get(stated)
    return next((spec for spec in reversed(specs()) if spec.identify(checkpoint.tensors)), get(names()[0]))


def run_file(folder: Path, which: str) -> Path:
    """The file of a run's weights.

    Raises:
        ConvNextError: the run has not written them yet.
    """
    from convnext.runtime.names import RUN_FILES

    file = folder / RUN_FILES[which]
    if not file.exists():
        there = written_weights(folder)
        raise ConvNextError(
            f"The run in {folder} has no {file.name}"
            + (f"; it has: {', '.join(there)}." if there else " yet: it writes weights at its first evaluation.")
        )
    return file


def written_weights(folder: Path) -> Sequence[str]:
    """Which of "best", "raw" and "ema" a run has written so far."""
    from convnext.runtime.names import RUN_FILES

    return [which for which, file in RUN_FILES.items() if (folder / file).exists()]


def resized(opened: Opened, image_size: int | None) -> Opened:
    """The model at another image size, if one is given."""
    return opened if image_size is None else replace(opened, loaded=opened.spec.resized(opened.loaded, image_size))
