"""Every model that can be timed, by name, with random weights: ours, and those of other libraries."""

import re
from pathlib import Path

import torch
from torch import nn

from convnext import models, tasks
from convnext.benchmark.flops import Count, count, count_task, unfused_attention
from convnext.errors import ConvNextError, nearest
from convnext.robustness.peers import LIBRARIES, build_peer, check_peer, is_peer
from convnext.task.names import MARK
from convnext.task.spec import TaskSpec
from convnext.weights import catalog


def check(name: str) -> None:
    """Refuse a name that names no model, without building anything.

    Raises:
        ConvNextError: with the nearest names.
    """
    if dense_spec(name):
        return
    if is_peer(name):
        check_peer(name)
        return
    library, _, rest = name.partition(":")
    if library in LIBRARIES or (rest and not Path(name).exists()):
        raise ConvNextError(
            f"{name!r} is no model. One of another library is LIBRARY:NAME with a library of "
            f"{', '.join(LIBRARIES)}, such as timm:convnext_tiny.{nearest(library, LIBRARIES)}"
        )
    if name not in models.names() and name not in catalog.names() and not Path(name).expanduser().exists():
        raise ConvNextError(
            f"There is no classifier {name!r}, and no run or checkpoint.{nearest(name, models.names())} "
            "`convnext info models` lists ours; those of other libraries are timm:NAME, torchvision:NAME, transformers:ID."
        )


def dense_spec(name: str) -> TaskSpec | None:
    """The task of a detector or segmenter, ours or with timm's backbone; None for classifiers."""
    if name in models.names() or (MARK not in name and name not in tasks.list_models()):
        return None
    return tasks.of_model(name)


def default_sizes(name: str) -> tuple[int, ...]:
    """Heights in pixels at which a model is timed where none is given: 224, and of dense models what the paper counts at."""
    spec = dense_spec(name)
    return (224,) if spec is None else tuple(height for height, _ in spec.pixels(name)[:1])


def image_shape(name: str, image_size: int) -> tuple[int, int]:
    """(height, width) of a model's images: the paper's for dense models at their height, else square."""
    spec = dense_spec(name)
    return image_size, (dict(spec.pixels(name)) if spec else {}).get(image_size, image_size)


def build(name: str, image_size: int = 224) -> nn.Module:
    """Build a model in training mode, without stochastic depth, for 1,000 classes where the name leaves it open.

    Args:
        name: one of `models.names()`, a run, checkpoint or name of the catalog; or a name that `build_peer` takes.
        image_size: pixels of a side, for architectures that are built for one size.

    Raises:
        ConvNextError: as `check`, or another library refuses the size.
    """
    if spec := dense_spec(name):
        return spec.primed(spec.build(name))
    check(name)
    if is_peer(name):
        return build_peer(name, image_size)
    if name in models.names():
        return models.build(name)
    return tasks.open_trained(name).loaded.module.train()


def deployable(name: str) -> bool:
    """True if a model of ours has an inference form of its own."""
    return dense_spec(name) is None and hasattr(_on_meta(name, 224), "deploy")


def counted(name: str, image_size: int) -> Count | None:
    """Count params and MACs for one image; None where the model cannot be run on the meta device."""
    try:
        with unfused_attention():
            if spec := dense_spec(name):
                return count_task(spec, name, *image_shape(name, image_size))
            return count(_on_meta(name, image_size), (3, image_size, image_size))
    except Exception:  # of models of other libraries that need data
        return None


def _on_meta(name: str, image_size: int) -> nn.Module:
    with torch.device("meta"):
        return build(name, image_size).to("meta")


def architecture(name: str) -> str:
    """The name by which models of different libraries are known to be the same network.

    timm:convnext_tiny.in22k, torchvision:convnext_tiny and transformers:facebook/convnext-tiny-224 are convnext_tiny.
    """
    stem = name.partition(":")[2] if is_peer(name) else name
    stem = Path(stem).name.partition(".")[0].replace("-", "_").lower()
    return re.sub(r"_(?:224|256|384)$", "", stem) if stem.startswith("convnext_") else stem
