"""Models of timm, torchvision and transformers as subjects, with the weights and the preprocessing of their library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T

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


def is_peer(name: str) -> bool:
    """Whether a name begins with a library."""
    library, _, rest = name.partition(":")
    return library in LIBRARIES and bool(rest)


def load_peer(name: str) -> Subject:
    """A pre-trained model by name, on the CPU.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `torchvision:NAME.WEIGHTS` (such as `resnet50.IMAGENET1K_V1`; the library's
            default if not given) or `transformers:ID`, where ID is a repository of the Hub or a folder.

    Raises:
        ConvNextError: the library is not installed, has no such classifier, or cannot get the weights.
    """
    library, _, rest = name.partition(":")
    try:
        subject = LIBRARIES[library](name, rest)
    except ImportError as error:
        raise ConvNextError(
            f"{name} needs {library}, which cannot be imported ({error}): pip install {library}"
        ) from error
    except Exception as error:  # whatever the library's loader and its downloads raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise ConvNextError(
            f"{library} could not load {rest!r} ({reason}).{_near(library, rest)} Pre-trained weights are downloaded, "
            "which takes a network, or a cache that has them already."
        ) from error
    if name in TABLE8:
        subject.paper_row = paper.robustness(TABLE8[name])
    return subject


def _timm(name: str, rest: str) -> Subject:
    import timm
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config

    model: Any = timm.create_model(rest, pretrained=True)
    config = resolve_model_data_config(model)
    pipeline: Any = create_transform(**config, is_training=False, normalize=False)
    *geometry, _ = pipeline.transforms  # the last makes a tensor
    subset = infer_imagenet_subset(model)
    classes = ImageNetInfo(subset).label_names() if subset else _numbers(model.num_classes)
    return Subject(
        name, model, list(classes), T.Compose(geometry), Normalize(config["mean"], config["std"]), dict(config)
    )


def _torchvision(name: str, rest: str) -> Subject:
    from torchvision import models

    architecture, _, version = rest.partition(".")
    weights = models.get_model_weights(architecture)[version or "DEFAULT"]
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
    model = models.get_model(architecture, weights=weights)
    return Subject(name, model, list(wnids("clean")), geometry, Normalize(steps.mean, steps.std), facts)


class _Logits(nn.Module):
    """transformers' models answer with an object; here its logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


@dataclass
class _ProcessorGeometry:
    """The resize and crop of an image processor of transformers, whatever its kind."""

    processor: Callable

    def __call__(self, image: Image.Image) -> Image.Image:
        batch = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        return Image.fromarray(np.asarray(batch["pixel_values"][0]).astype(np.uint8).transpose(1, 2, 0))


def _transformers(name: str, rest: str) -> Subject:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(rest)
    processor = AutoImageProcessor.from_pretrained(rest)
    count = model.config.num_labels
    classes = wnids("clean") if count == 1000 else [model.config.id2label[label] for label in range(count)]
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0,) * 3, (1,) * 3)
    names = ("do_resize", "size", "crop_pct", "resample", "do_center_crop", "crop_size")
    facts = {fact: str(getattr(processor, fact, None)) for fact in names} | {"mean": mean, "std": std}
    return Subject(name, _Logits(model), list(classes), _ProcessorGeometry(processor), Normalize(mean, std), facts)


LIBRARIES = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}


def _numbers(count: int) -> list[str]:
    return [str(label) for label in range(count)]


def _near(library: str, rest: str) -> str:
    """A hint for a mistyped name, where the library can list its own."""
    import timm
    from torchvision import models

    known = {"timm": [*timm.list_models(), *timm.list_pretrained()], "torchvision": models.list_models()}
    choices = known.get(library, [])
    return "" if rest.partition(".")[0] in choices else nearest(rest, choices)
