"""Every classifier that can be timed, by name, with random weights: ours, and those of timm, torchvision and transformers."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convnext import models
from convnext.benchmark.configs import library_of
from convnext.benchmark.flops import Count, count
from convnext.errors import ConvNextError, nearest
from convnext.robustness import peers
from convnext.weights import catalog


def check(name: str) -> None:
    """Refuse a name that nothing will come of, without building anything.

    Raises:
        ConvNextError: it names no classifier; with the nearest names.
    """
    library, _, rest = name.partition(":")
    if library_of(name) == "ours":
        if library in peers.LIBRARIES or (rest and not Path(name).exists()):
            raise ConvNextError(
                f"{name!r} is no model. One of another library is LIBRARY:NAME with a library of "
                f"{', '.join(peers.LIBRARIES)}, such as timm:convnext_tiny.{nearest(library, peers.LIBRARIES)}"
            )
        if name not in models.names() and name not in catalog.names() and not Path(name).expanduser().exists():
            raise ConvNextError(
                f"There is no classifier {name!r}, and no run or checkpoint.{nearest(name, models.names())} "
                "`convnext info models` lists ours; those of other libraries are timm:NAME, torchvision:NAME, transformers:ID."
            )
    elif library == "timm":
        import timm

        if not timm.is_model(rest):
            raise ConvNextError(f"timm has no model {rest!r}.{nearest(rest.partition('.')[0], timm.list_models())}")
    elif library == "torchvision":
        from torchvision import models as theirs

        classifiers = theirs.list_models(module=theirs)  # without those of its detection, segmentation, video
        if rest.partition(".")[0] not in classifiers:
            raise ConvNextError(f"torchvision has no classifier {rest!r}.{nearest(rest, classifiers)}")


def build(name: str, image_size: int = 224) -> nn.Module:
    """A model of that name in training mode, without stochastic depth, for 1,000 classes where the name leaves it open.

    Args:
        name: one of `models.names()`, a run, checkpoint or name of the catalog; or `timm:NAME`, `torchvision:NAME`,
            `transformers:ID`, of which nothing but the architecture is taken (a tag such as `.in22k` changes no speed).
        image_size: pixels of a side, for architectures that are built for one size.

    Raises:
        ConvNextError: as `check`, or the library refuses.
    """
    check(name)
    library, _, rest = name.partition(":")
    if library_of(name) == "ours":
        if name in models.names():
            return models.build(name)
        from convnext.classification.load import load_classifier

        return load_classifier(name, torch.device("cpu")).model.train()
    try:
        return {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[library](rest, image_size)
    except (ImportError, OSError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise ConvNextError(f"{library} cannot build {rest!r} for images of {image_size} px ({reason}).") from error


def _timm(rest: str, image_size: int) -> nn.Module:
    import timm

    config = timm.get_pretrained_cfg(rest)
    fixed = config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != (image_size, image_size)
    options: dict[str, Any] = {"img_size": image_size} if fixed else {}
    return timm.create_model(rest, pretrained=False, num_classes=1000, **options)


def _torchvision(rest: str, image_size: int) -> nn.Module:
    from torchvision.models import get_model
    from torchvision.ops import StochasticDepth

    architecture = rest.partition(".")[0]
    fixed = architecture.startswith("vit_") and image_size != 224
    model = get_model(architecture, weights=None, **({"image_size": image_size} if fixed else {}))
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # as the other libraries build theirs
    return model


def _transformers(rest: str, image_size: int) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(rest)
    config.num_labels = 1000
    return peers._Logits(AutoModelForImageClassification.from_config(config))


def deployable(name: str) -> bool:
    """Whether a model of ours has an inference form of its own."""
    return hasattr(_on_meta(name, 224), "deploy")


def counted(name: str, image_size: int) -> Count | None:
    """Params and MACs of one image, or None where the model cannot be run on the meta device."""
    from timm.layers import set_fused_attn, use_fused_attn

    fused = use_fused_attn()
    set_fused_attn(False)  # so that attention is two products, which are counted whatever kernel would run them
    try:
        return count(_on_meta(name, image_size), (3, image_size, image_size))
    except Exception:  # whatever a model of another library does not do without data
        return None
    finally:
        set_fused_attn(bool(fused))


def _on_meta(name: str, image_size: int) -> nn.Module:
    with torch.device("meta"):
        return build(name, image_size).to("meta")


def architecture(name: str) -> str:
    """The name by which models of different libraries are known to be the same network.

    timm:convnext_tiny.in22k, torchvision:convnext_tiny and transformers:facebook/convnext-tiny-224 are convnext_tiny.
    """
    stem = name.partition(":")[2] if library_of(name) != "ours" else name
    stem = Path(stem).name.partition(".")[0].replace("-", "_").lower()
    return re.sub(r"_(?:224|256|384)$", "", stem) if stem.startswith("convnext_") else stem
