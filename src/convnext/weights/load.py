"""Read a checkpoint of any origin and fill a model with it.

The format is told by the names of the tensors; `files` opens the container.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from convnext import models
from convnext.errors import ConvNextError
from convnext.models.outputs import CLASSIFIER, OutputLayers, matching
from convnext.models.recognise import BACKBONE, STEMS, describe
from convnext.weights import catalog, files, official, openmmlab, timm, torchvision, transformers
from convnext.weights import metadata as schema
from convnext.weights.names import Tensors, some, strip_prefixes

FORMATS: dict[str, ModuleType] = {
    "official": official,
    "timm": timm,
    "torchvision": torchvision,
    "transformers": transformers,
}
Identify = Callable[[Mapping[str, torch.Tensor]], dict | None]
READ_ONLY: dict[str, ModuleType] = {"openmmlab": openmmlab}
WRAPPERS = {"raw": ("model", "state_dict", "module"), "ema": ("model_ema", "state_dict_ema")}


@dataclass
class Checkpoint:
    """The content of a file, in our names.

    Attributes:
        tensors: name -> tensor on the CPU, often a view of the file.
        format: safetensors (ours), official, timm, torchvision, transformers or openmmlab.
        metadata: `model` ({"name": ..., options}), `num_classes`, `classes`, `preprocess`, ... as far as the file, its
            neighbours or the catalog say it; `load_model` adds the model that the shapes show.
        which: the set that was read, raw or ema.
        available: the sets that the file holds.
        path: the file.
        report: what `load_model` did with it.
    """

    tensors: Tensors
    format: str
    metadata: dict
    which: str
    available: tuple[str, ...]
    path: Path
    report: "LoadReport | None" = None


@dataclass
class LoadReport:
    """The outcome of a load: parameters that stay as they were, and tensors of the file that found no use."""

    missing: list[str] = field(default_factory=list)
    """Names that the file lacks."""
    unexpected: list[str] = field(default_factory=list)
    """Names that the model lacks."""
    new_head: bool = False
    """The model keeps its own classifier."""
    adapted: str = ""
    """A sentence about the stem, where the file's is for another number of channels."""
    dropped: list[str] = field(default_factory=list)
    """The file's final norm and classifier, which a backbone leaves out; its `norm0`..`norm3` stay fresh."""


def read_checkpoint(path: str | Path, which: str = "auto", verify: bool = True) -> Checkpoint:
    """Read a file, a `save_pretrained` folder, or a name of the catalog.

    Args:
        which: `raw` or `ema` in a training checkpoint with both; `auto` takes raw where there is one.
        verify: compare our own files with the digest that they carry.

    Raises:
        ConvNextError: no such file, not a checkpoint, damaged, holds more than tensors, has metadata of other types or
            sizes than `weights.metadata` allows, or lacks the set asked for.
    """
    sets = read_sets(path, verify)
    label = next(iter(sets)) if which == "auto" else which
    if label not in sets:
        file = next(iter(sets.values())).path
        raise ConvNextError(f"{file} holds no {which!r} weights, only {' and '.join(map(repr, sets))}. Ask for 'auto'.")
    return sets[label]


def read_sets(path: str | Path, verify: bool = True) -> dict[str, Checkpoint]:
    """All sets of weights in a file, read once: raw and ema of a training checkpoint that holds both; see `read_checkpoint`."""
    path = catalog.resolve(path)
    file = files.weights_file(path) if path.is_dir() else path
    content, header = files.read(file, verify)
    sets = unwrapped(content)
    formats, found = FORMATS | READ_ONLY, {}
    for label, values in sets.items():
        tensors = named(values)
        files.check_tensors(file, tensors)
        if header is not None and '"format": "convnext-int8"' in header:
            raise ConvNextError(
                f"{file} is a file of `convnext export --format convnext-int8`: give it its name back, which ended in "
                ".int8.safetensors, and use it as it is, or take the checkpoint that it was made of."
            )
        if header is not None:
            found[label] = Checkpoint(tensors, "safetensors", schema.read(header, file), label, tuple(sets), file)
            continue
        origin = origin_of(tensors)
        if origin is None:
            raise ConvNextError(
                f"{file} holds no ConvNeXt that is known here: its names are "
                f"{some(tensors or values, 4) or 'none at all'}. Known are the names of {', '.join(formats)}."
            )
        metadata = catalog.describe(file.name)
        if origin == "transformers" and path.is_dir():
            metadata |= transformers.read_metadata(path)
        found[label] = Checkpoint(formats[origin].to_ours(tensors), origin, metadata, label, tuple(sets), file)
    return found


def unwrapped(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The sets of weights in what a file holds: those under the keys that training scripts use, or the content itself."""
    sets = {
        label: content[key] for label, keys in WRAPPERS.items() for key in keys if isinstance(content.get(key), dict)
    }
    return sets or {"raw": content}


def named(values: Mapping[str, Any]) -> Tensors:
    """The tensors among the values, without what wrappers add to names."""
    return strip_prefixes({str(key): value for key, value in values.items() if isinstance(value, torch.Tensor)})


def origin_of(tensors: Tensors) -> str | None:
    """The format that these names are of; None if it is unknown."""
    return next((name for name, module in (FORMATS | READ_ONLY).items() if module.matches(tensors)), None)


def of_state_dict(content: Mapping[str, Any]) -> Tensors:
    """The tensors of a state dict, or of a checkpoint around one, of any known format, in our names."""
    tensors = named(next(iter(unwrapped(content).values())))
    origin = origin_of(tensors)
    return (FORMATS | READ_ONLY)[origin].to_ours(tensors) if origin else tensors


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
    identify: Identify = models.identify,
    **options,
) -> tuple[nn.Module, Checkpoint]:
    """Build the model that a checkpoint belongs to, and fill it.

    Args:
        path, which: see `read_checkpoint`.
        new_head: see `load_weights`; for a `num_classes` of your own.
        build, identify: of the family that is expected: `build` makes a model from name and options, `identify` tells
            both from the tensors of a file that does not state them.
        options: of `build`; they win over what the checkpoint says.

    Returns:
        The model, on the CPU in training mode as freshly built, and the checkpoint with its metadata.

    Raises:
        ConvNextError: see `read_checkpoint` and `load_weights`; or the file's model is not of this family.
    """
    checkpoint = read_checkpoint(path, which)
    config = {**identified(checkpoint, identify), **options}
    try:
        with torch.device("meta"):  # so that a file cannot ask for more memory than its own tensors need
            planned = build(**config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConvNextError(
            f"{config['name']} cannot be built with the options {config} of {path}: {error}."
        ) from error
    matched(planned, checkpoint, new_head)
    _check_labels(checkpoint, planned)
    model = build(**config)
    checkpoint.report = fill(model, checkpoint, new_head)
    return model, checkpoint


def _check_labels(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Refuse class names that are not as many as the file's classes."""
    there = getattr(model, "output_layers", CLASSIFIER).num_classes(checkpoint.tensors)
    for key in ("classes", "names"):
        labels = checkpoint.metadata.get(key)
        if labels and there is not None and len(labels) != there:
            raise ConvNextError(
                f"{checkpoint.path} has {there} outputs and {len(labels)} names of classes in its metadata ({key}): it is "
                "damaged or was put together wrongly. Save it again with one name for each class."
            )


def identified(checkpoint: Checkpoint, identify: Identify) -> dict:
    """The `name` and options of the checkpoint's model, as its metadata says or else as `identify` tells; the metadata
    says it from then on.

    Raises:
        ConvNextError: the tensors belong to none of the models that `identify` knows.
    """
    metadata, told = checkpoint.metadata, identify(checkpoint.tensors)
    foreign = not metadata.get("model") or any(name.startswith(BACKBONE) for name in checkpoint.tensors)
    if foreign and told is None:
        raise ConvNextError(
            f"{checkpoint.path} holds {describe(checkpoint.tensors)}, which is none of the models that are expected here "
            "(`convnext info models` lists all). `convnext.create_model` with the name of the whole model opens detectors "
            "and others alike; for a size of your own, build the module and give it to `load_weights`."
        )
    if told is not None and not metadata.get("model"):
        metadata |= {"model": told, "num_classes": told["num_classes"]}
    return metadata["model"]


def fill(model: nn.Module, checkpoint: Checkpoint, new_head: bool = False, partial: bool = False) -> LoadReport:
    """`load_weights` from a checkpoint that has been read: decide everything, then touch the model."""
    theirs, report = matched(model, checkpoint, new_head, partial)
    model.load_state_dict(theirs, strict=False)
    return report


def matched(
    model: nn.Module, checkpoint: Checkpoint, new_head: bool = False, partial: bool = False
) -> tuple[Tensors, LoadReport]:
    """The tensors that `fill` gives to the model, and its report; the model's own may be on the meta device."""
    own, theirs, report = model.state_dict(), dict(checkpoint.tensors), LoadReport()
    outputs: OutputLayers = getattr(model, "output_layers", CLASSIFIER)
    asked = getattr(model, "config", {}).get("name") or describe(own)
    found = (checkpoint.metadata.get("model") or {}).get("name") or describe(theirs)
    fit = f"looks like {found}, and the model is {asked}" if found != asked else f"does not fit {asked} entirely"
    here, there = outputs.num_classes(own), outputs.num_classes(theirs)
    stays = []  # the model's own, fresh tensors that the file shall not touch
    if here is None:
        report.dropped = [name for name in matching(outputs.classifier_only, theirs) if name not in own]
        stays = [name for name in matching(outputs.backbone_only, own) if name not in theirs]
    elif here != there:
        report.new_head = True
        stays = outputs.names(own)
    for name in [*stays, *report.dropped]:
        theirs.pop(name, None)
    report.adapted = adapt_stem(own, theirs)

    unfit = [name for name, tensor in theirs.items() if name in own and own[name].shape != tensor.shape]
    if unfit:
        raise ConvNextError(f"{checkpoint.path} {fit}. {_shapes(unfit, own, theirs)}")
    report.missing = [name for name in own if name not in theirs and name not in stays]
    report.unexpected = [name for name in theirs if name not in own]
    if (report.missing or report.unexpected) and not partial:
        raise ConvNextError(f"{checkpoint.path} {fit}. {_gaps(report)}")
    if report.new_head and not new_head:
        raise ConvNextError(f"{checkpoint.path} {_other_head(here, there)}")
    return theirs, report


def adapt_stem(own: Tensors, theirs: Tensors) -> str:
    """Replace the file's stem (C, channels, k, k) in `theirs` if the model's is for another number of channels.

    As timm does: one channel gets the sum over all; from 1 or 3 channels to more they are repeated in turn and scaled so
    that equal channels give the same sum. Other numbers stay as they are.

    Returns:
        A sentence about it; empty if there was nothing to do.
    """
    for name, stem in theirs.items():
        if name.removeprefix(BACKBONE) in STEMS and name in own and own[name].ndim == stem.ndim == 4:
            here, there = own[name].shape[1], stem.shape[1]
            if here == there or not (here == 1 or there in (1, 3)) or own[name].shape[2:] != stem.shape[2:]:
                return ""
            if here == 1:
                theirs[name] = stem.float().sum(1, keepdim=True).to(stem.dtype)
            else:
                theirs[name] = stem.repeat(1, -(-here // there), 1, 1)[:, :here] * (there / here)
            how = "summed" if here == 1 else "repeated and scaled"
            return f"The stem's weights for {there} channels were {how} for {here}."
    return ""


def _other_head(here: int | None, there: int | None) -> str:
    """The advice about a classifier of another size, or none."""
    keep = "pass new_head=True to keep the model's own, freshly initialised classifier."
    if there is None:
        return f"has no classifier, and the model has one of {here} classes: {keep}"
    return f"has {there} classes, and the model {here}. Build the model with num_classes={there}, or {keep}"


def _shapes(unfit: list[str], own: Tensors, theirs: Tensors) -> str:
    """The advice about tensors of another shape."""
    first = unfit[0]
    here, there = tuple(own[first].shape), tuple(theirs[first].shape)
    if len(unfit) == 1 and first.removeprefix(BACKBONE) in STEMS:
        return f"The file is for {there[1]} channels, and the model for {here[1]}: build it with in_chans={there[1]}."
    return (
        f"{len(unfit)} tensors have another shape, such as {first}: {there} in the file, {here} in the model. Build "
        "the model that the file belongs to, or choose another file."
    )


def _gaps(report: LoadReport) -> str:
    """The advice about names that only one side has."""
    parts = [
        f"{label} {some(names)}."
        for label, names in (("The file lacks", report.missing), ("The model lacks", report.unexpected))
        if names
    ]
    if all(name.endswith(".gamma") for name in report.missing + report.unexpected):
        value, why = ("0", "for no LayerScale") if report.missing else ("1e-6", "for LayerScale")
        option = f"--model.layer-scale-init-value {value} in a training"
        parts.append(f"Build the model with layer_scale_init_value={value}, {why} ({option}).")
    else:
        parts.append("Build the model that the file belongs to, or pass partial=True to load what fits.")
    return " ".join(parts)
