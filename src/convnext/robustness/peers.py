"""Classifiers of timm, torchvision and transformers by name: pre-trained as subjects, or built with random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T
from torchvision.ops import StochasticDepth

from convnext import paper
from convnext.classification.transforms import Normalize
from convnext.errors import ConvNextError, nearest
from convnext.robustness.sets import wnids
from convnext.robustness.subject import Subject

TABLE8 = {
    "torchvision:resnet50.IMAGENET1K_V1": "ResNet-50",
    "timm:swin_tiny_patch4_window7_224.ms_in1k": "Swin-T",
    "timm:swin_base_patch4_window7_224.ms_in1k": "Swin-B",
    "timm:convnext_tiny.fb_in1k": "ConvNeXt-T",
    "timm:convnext_base.fb_in1k": "ConvNeXt-B",
}
"""Peers whose weights are those of a row of Table 8, trained on ImageNet-1K."""


CONV_MLP = ".conv_mlp"  # the tag of a timm name that is no tag of weights, but of the form


@dataclass(frozen=True)
class Library:
    """Functions that take a name within the library, such as `convnext_tiny.in22k`.

    Attributes:
        load: (full name, name) -> the pre-trained model with the library's preprocessing.
        build: (name, pixels of a side) -> the architecture with random weights and 1,000 classes.
        names: () -> its classifiers, for checks and hints; empty if they cannot be listed.
    """

    load: Callable[[str, str], Subject]
    build: Callable[[str, int], nn.Module]
    names: Callable[[], list[str]]


def is_peer(name: str) -> bool:
    """True if a name begins with a library and a colon."""
    library, _, rest = name.partition(":")
    return library in LIBRARIES and bool(rest)


def check_peer(name: str) -> None:
    """Refuse a name that its library does not list, without building anything.

    Raises:
        ConvNextError: there is no such classifier; with the nearest name.
    """
    library, _, rest = name.partition(":")
    known = LIBRARIES[library].names()
    if known and rest.partition(".")[0] not in known:
        raise ConvNextError(f"{library} has no classifier {rest!r}.{_near(library, rest)}")


def build_peer(name: str, image_size: int) -> nn.Module:
    """Build the architecture in training mode with random weights and 1,000 classes, without stochastic depth.

    Args:
        name: `timm:NAME`, `torchvision:NAME` or `transformers:ID`; a tag such as `.in22k` is ignored, but for `.conv_mlp`:
            timm's ConvNeXt with 1x1 convolutions in place of linear layers.
        image_size: pixels of a side, for architectures that are built for one size.

    Raises:
        ConvNextError: the library has no such classifier, or refuses the size.
    """
    check_peer(name)
    library, _, rest = name.partition(":")
    try:
        return LIBRARIES[library].build(rest, image_size)
    except (ImportError, OSError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise ConvNextError(
            f"{library} cannot build {rest!r} for images of {image_size} px ({_in_a_line(error)})."
        ) from error


def load_peer(name: str) -> Subject:
    """Load a pre-trained model by name, on the CPU.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `torchvision:NAME.WEIGHTS` (such as `resnet50.IMAGENET1K_V1`; the library's
            default if not given) or `transformers:ID`, where ID is a repository of the Hub or a folder.

    Raises:
        ConvNextError: the library is not installed, has no such classifier, or cannot get the weights.
    """
    library, _, rest = name.partition(":")
    try:
        subject = LIBRARIES[library].load(name, rest)
    except ImportError as error:
        raise ConvNextError(
            f"{name} needs {library}, which cannot be imported ({error}): pip install {library}"
        ) from error
    except Exception as error:  # whatever the library's loader and its downloads raise
        raise ConvNextError(
            f"{library} could not load {rest!r} ({_in_a_line(error)}).{_near(library, rest)} Pre-trained weights are "
            "downloaded, which takes a network, or a cache that has them already."
        ) from error
    if name in TABLE8:
        subject.paper_row = paper.robustness(TABLE8[name])
    return subject


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")


def _near(library: str, rest: str) -> str:
    """A hint for a mistyped architecture, where the library lists its own."""
    architecture, known = rest.partition(".")[0], LIBRARIES[library].names()
    return "" if architecture in known else nearest(architecture, known)


def _load_timm(name: str, rest: str) -> Subject:
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config

    model: Any = timm.create_model(rest, pretrained=True)
    config = resolve_model_data_config(model)
    pipeline: Any = create_transform(**config, is_training=False, normalize=False)
    *geometry, _ = pipeline.transforms  # the last makes a tensor
    subset = infer_imagenet_subset(model)
    classes = ImageNetInfo(subset).label_names() if subset else [str(label) for label in range(model.num_classes)]
    return Subject(
        name, model, list(classes), T.Compose(geometry), Normalize(config["mean"], config["std"]), dict(config)
    )


def _build_timm(rest: str, image_size: int) -> nn.Module:
    options: dict[str, Any] = {"conv_mlp": True} if rest.endswith(CONV_MLP) else {}
    rest = rest.removesuffix(CONV_MLP)
    config = timm.get_pretrained_cfg(rest)
    fixed = config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != (image_size, image_size)
    options |= {"img_size": image_size} if fixed else {}
    return timm.create_model(rest, pretrained=False, num_classes=1000, **options)


def _load_torchvision(name: str, rest: str) -> Subject:
    architecture, _, version = rest.partition(".")
    weights = torchvision.models.get_model_weights(architecture)[version or "DEFAULT"]
    steps = weights.transforms()
    facts = {
        "weights": weights.name,
        "resize": steps.resize_size,
        "crop": steps.crop_size,
        "interpolation": steps.interpolation.value,
        "mean": steps.mean,
        "std": steps.std,
    }
    geometry = T.Compose([T.Resize(steps.resize_size, steps.interpolation), T.CenterCrop(steps.crop_size)])
    model = torchvision.models.get_model(architecture, weights=weights)
    return Subject(name, model, list(wnids("clean")), geometry, Normalize(steps.mean, steps.std), facts)


def _build_torchvision(rest: str, image_size: int) -> nn.Module:
    architecture = rest.partition(".")[0]
    fixed = architecture.startswith("vit_") and image_size != 224
    options = {"image_size": image_size} if fixed else {}
    model = torchvision.models.get_model(architecture, weights=None, **options)
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # as the other libraries build theirs
    return model


def _torchvision_names() -> list[str]:
    """Names of the classifiers, without detectors, segmenters and video models."""
    return torchvision.models.list_models(module=torchvision.models)


class Logits(nn.Module):
    """A model of transformers, whose answer is an object, as one whose answer is the logits in it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


@dataclass
class _ProcessorGeometry:
    """Resize and crop of an image processor of transformers, whatever its kind."""

    processor: Callable

    def __call__(self, image: Image.Image) -> Image.Image:
        batch = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        return Image.fromarray(np.asarray(batch["pixel_values"][0]).astype(np.uint8).transpose(1, 2, 0))


def _load_transformers(name: str, rest: str) -> Subject:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(rest)
    processor = AutoImageProcessor.from_pretrained(rest)
    count = model.config.num_labels
    classes = wnids("clean") if count == 1000 else [model.config.id2label[label] for label in range(count)]
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0,) * 3, (1,) * 3)
    names = ("do_resize", "size", "crop_pct", "resample", "do_center_crop", "crop_size")
    facts = {fact: str(getattr(processor, fact, None)) for fact in names} | {"mean": mean, "std": std}
    return Subject(name, Logits(model), list(classes), _ProcessorGeometry(processor), Normalize(mean, std), facts)


def _build_transformers(rest: str, image_size: int) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(rest)
    config.num_labels = 1000
    return Logits(AutoModelForImageClassification.from_config(config))


LIBRARIES = {
    "timm": Library(_load_timm, _build_timm, timm.list_models),
    "torchvision": Library(_load_torchvision, _build_torchvision, _torchvision_names),
    "transformers": Library(_load_transformers, _build_transformers, list),
}
