"""Read a checkpoint of any origin and fill a model with it.

The format is told by the names of the tensors; `files` opens the container.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from convnext import models
from convnext.errors import ConvNextError
from convnext.weights import catalog, files, official, timm, torchvision, transformers
from convnext.weights.infer import class_tensors, describe, infer_model, num_classes, task
from convnext.weights.names import Tensors, some, strip_wrappers

FORMATS = {"official": official, "timm": timm, "torchvision": torchvision, "transformers": transformers}
WRAPPERS = {"raw": ("model", "state_dict", "module"), "ema": ("model_ema", "state_dict_ema")}


@dataclass
class Checkpoint:
    """What a file holds, in our names.

    Attributes:
        tensors: name -> tensor on the CPU, often a view of the file.
        format: safetensors (ours), official, timm, torchvision or transformers.
        metadata: `model` ({"name": ..., options}), `num_classes`, `classes`, `preprocess`, `task`, ... as far as the
            file, its neighbours or the catalog say it, or the shapes show it.
        which: the set that was read, raw or ema.
        available: the sets that the file holds.
        path: the file.
    """

    tensors: Tensors
    format: str
    metadata: dict
    which: str
    available: tuple[str, ...]
    path: Path


@dataclass
class LoadReport:
    """What happened to a model: parameters that stay as they were, and tensors of the file that found no use."""

    missing: list[str] = field(default_factory=list)
    """Names that the file lacks."""
    unexpected: list[str] = field(default_factory=list)
    """Names that the model lacks."""
    new_head: bool = False
    """The model keeps its own classifier."""
    dropped: list[str] = field(default_factory=list)
    """The file's final norm and classifier, which a backbone leaves out; its `norm0`..`norm3` stay fresh."""


def read_checkpoint(path: str | Path, which: str = "auto") -> Checkpoint:
    """Read a file, a `save_pretrained` folder, or a name of the catalog.

    Args:
        which: `raw` or `ema` in a training checkpoint with both; `auto` takes raw where there is one.

    Raises:
        ConvNextError: no such file, not a checkpoint, damaged, holds more than tensors, or lacks the set asked for.
    """
    path = catalog.resolve(path)
    file = files.weights_file(path) if path.is_dir() else path
    content, header = files.read(file)
    sets = {
        label: content[key] for label, keys in WRAPPERS.items() for key in keys if isinstance(content.get(key), dict)
    }
    sets = sets or {"raw": content}
    label = next(iter(sets)) if which == "auto" else which
    if label not in sets:
        raise ConvNextError(f"{file} holds no {which!r} weights, only {' and '.join(map(repr, sets))}. Ask for 'auto'.")
    tensors = strip_wrappers({str(key): value for key, value in sets[label].items() if isinstance(value, torch.Tensor)})
    if header is not None:
        return Checkpoint(tensors, "safetensors", json.loads(header), label, tuple(sets), file)
    origin = next((name for name, module in FORMATS.items() if module.matches(tensors)), None)
    if origin is None:
        raise ConvNextError(
            f"{file} holds no ConvNeXt that is known here: its names are "
            f"{some(tensors or sets[label], 4) or 'none at all'}. Known are the names of {', '.join(FORMATS)}."
        )
    tensors = FORMATS[origin].to_ours(tensors)
    metadata = catalog.describe(file.name)
    if origin == "transformers" and path.is_dir():
        metadata |= transformers.read_metadata(path)
    with suppress(ConvNextError):  # a size without a name can still be loaded into a model
        model = infer_model(tensors)
        metadata |= {"model": model, "num_classes": model["num_classes"], "task": task(tensors)}
    return Checkpoint(tensors, origin, metadata, label, tuple(sets), file)


def load_weights(
    model: nn.Module, path: str | Path, *, new_head: bool = False, partial: bool = False, which: str = "auto"
) -> LoadReport:
    """Fill a model with a checkpoint of any format; the model is untouched when this refuses.

    A backbone (`num_classes=None`) takes a classifier's checkpoint without its final norm and head, and keeps its fresh
    `norm0`..`norm3`: that is how the paper starts COCO and ADE20K (Section A.3).

    Args:
        path: file, folder or catalog name; see `read_checkpoint`, as for `which`.
        new_head: where the file's classifier has another number of classes, keep the model's own, freshly initialised.
        partial: load what fits by name, and leave the rest as it is.

    Raises:
        ConvNextError: the file cannot be read, or it does not fit the model and the options do not allow for it.
    """
    return fill(model, read_checkpoint(path, which), new_head, partial)


def load_model(
    path: str | Path,
    which: str = "auto",
    *,
    new_head: bool = False,
    build: Callable[..., nn.Module] = models.build,
    **options,
) -> tuple[nn.Module, Checkpoint]:
    """Build the model that a checkpoint belongs to, and fill it.

    Args:
        path, which: see `read_checkpoint`.
        new_head: see `load_weights`; for a `num_classes` of your own.
        build: what makes the model from its name and options: of `models`, `detection.detector` or
            `segmentation.segmenter`, as the checkpoint's task is.
        options: of `build`; they win over what the checkpoint says.

    Returns:
        The model, on the CPU in training mode as freshly built, and the checkpoint with its metadata.
    """
    checkpoint = read_checkpoint(path, which)
    if build is models.build and any(name.startswith("backbone.") for name in checkpoint.tensors):
        raise ConvNextError(
            f"{checkpoint.path} holds {describe(checkpoint.tensors)}, and a classifier is expected here. "
            "`convnext.create_model` with the name of the whole model loads it; `convnext predict` and `evaluate` read it."
        )
    config = {**(checkpoint.metadata.get("model") or infer_model(checkpoint.tensors)), **options}
    model = build(**config)
    fill(model, checkpoint, new_head)
    return model, checkpoint


def fill(model: nn.Module, checkpoint: Checkpoint, new_head: bool = False, partial: bool = False) -> LoadReport:
    """`load_weights` from a checkpoint that has been read: decide everything, then touch the model."""
    own, theirs, report = model.state_dict(), dict(checkpoint.tensors), LoadReport()
    asked = getattr(model, "config", {}).get("name") or describe(own)
    found = describe(theirs)
    fit = f"looks like {found}, and the model is {asked}" if found != asked else f"does not fit {asked} entirely"
    here, there = num_classes(own), num_classes(theirs)
    stays = []  # the model's own, fresh tensors that the file shall not touch
    if here is None:
        report.dropped = [name for name in theirs if name.startswith(("norm.", "head."))]
        stays = [name for name in own if re.match(r"norm\d\.", name) and name not in theirs]
    elif here != there:
        report.new_head = True
        stays = class_tensors(own)
    for name in [*stays, *report.dropped]:
        theirs.pop(name, None)

    unfit = [name for name, tensor in theirs.items() if name in own and own[name].shape != tensor.shape]
    if unfit:
        raise ConvNextError(f"{checkpoint.path} {fit}. {_shapes(unfit, own, theirs)}")
    report.missing = [name for name in own if name not in theirs and name not in stays]
    report.unexpected = [name for name in theirs if name not in own]
    if (report.missing or report.unexpected) and not partial:
        raise ConvNextError(f"{checkpoint.path} {fit}. {_gaps(report)}")
    if report.new_head and not new_head:
        raise ConvNextError(f"{checkpoint.path} {_other_head(here, there)}")
    model.load_state_dict(theirs, strict=False)
    return report


def _other_head(here: int | None, there: int | None) -> str:
    """What to do about a classifier of another size, or none."""
    keep = "pass new_head=True to keep the model's own, freshly initialised classifier."
    if there is None:
        return f"has no classifier, and the model has one of {here} classes: {keep}"
    return f"has {there} classes, and the model {here}. Build the model with num_classes={there}, or {keep}"


def _shapes(unfit: list[str], own: Tensors, theirs: Tensors) -> str:
    """What to do about tensors of another shape."""
    first = unfit[0]
    here, there = tuple(own[first].shape), tuple(theirs[first].shape)
    if len(unfit) == 1 and first in ("downsample_layers.0.0.weight", "stem.weight"):
        return f"The file is for {there[1]} channels, and the model for {here[1]}: build it with in_chans={there[1]}."
    return (
        f"{len(unfit)} tensors have another shape, such as {first}: {there} in the file, {here} in the model. Build "
        "the model that the file belongs to, or choose another file."
    )


def _gaps(report: LoadReport) -> str:
    """What to do about names that only one side has."""
    parts = [
        f"{label} {some(names)}."
        for label, names in (("The file lacks", report.missing), ("The model lacks", report.unexpected))
        if names
    ]
    if all(name.endswith(".gamma") for name in report.missing + report.unexpected):
        value = "0, for no LayerScale" if report.missing else "1e-6, for LayerScale"
        parts.append(f"Build the model with layer_scale_init_value={value}.")
    else:
        parts.append("Build the model that the file belongs to, or pass partial=True to load what fits.")
    return " ".join(parts)
