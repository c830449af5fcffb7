from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convnext import models, paper
from convnext.data.corruptions import IMAGENET_C_BAR
from convnext.robustness.sets import wnids
from convnext.weights.save import save_weights

KINDS = {"noise": 3, "blur": 4, "weather": 4, "digital": 4}  # ImageNet-C's archives and how many corruptions each has


def picture(path: Path, seed: int, size: int = 224) -> Path:
    """A few coloured blocks, as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture(scope="session")
def class_folders():
    """Write some pictures into folders named after classes."""

    def write(root: Path, names, per_class: int = 1, size: int = 224) -> Path:
        for number, name in enumerate(names):
            for i in range(per_class):
                picture(root / name / f"{i}.jpg", seed=100 * number + i, size=size)
        return root

    return write


@pytest.fixture(scope="session")
def released(tmp_path_factory, class_folders):
    """Small folders in the layouts of the released sets, by the option that takes them."""
    root = tmp_path_factory.mktemp("released")
    some = wnids("clean")[:3]
    (root / "imagenet-a").mkdir()
    (root / "imagenet-a" / "README.txt").write_text("")
    class_folders(root / "imagenet-a", wnids("imagenet-a")[:3], per_class=2, size=120)
    class_folders(root / "imagenet-r" / "imagenet-r", wnids("imagenet-r")[:3], size=120)
    class_folders(root / "imagenet-sketch" / "sketch", some, size=120)
    class_folders(root / "clean" / "val", some, size=120)
    kinds = iter([kind for kind, count in KINDS.items() for _ in range(count)])
    for name in paper.ALEXNET_ERRORS:
        kind = next(kinds)
        for severity in range(1, 6):
            class_folders(root / "imagenet-c" / kind / name / str(severity), some[:2])
    for name in IMAGENET_C_BAR:
        for severity in range(1, 6):
            class_folders(root / "imagenet-c-bar" / name / str(severity), some[:2])
    return root


@pytest.fixture(scope="session")
def make_checkpoint():
    """Write a random atto; LayerScale 1, so that what it answers depends on the image."""

    def make(path: Path, num_classes: int = 1000, size: int = 32, seed: int = 0, **metadata) -> Path:
        torch.manual_seed(seed)
        stride = 1 if size < 32 else 4
        model = models.build(
            "convnext_atto",
            num_classes=num_classes,
            stem_stride=stride,
            layer_scale_init_value=1.0,
            head_init_scale=50.0,
        )
        preprocess = {"size": size, "crop_ratio": 1.0 if size <= 32 else 0.875}
        return save_weights(model, path, metadata={"task": "classification", "preprocess": preprocess, **metadata})

    return make


@pytest.fixture(scope="session")
def imagenet_model(tmp_path_factory, make_checkpoint):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "atto.safetensors")


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory, make_checkpoint):
    classes = [str(digit) for digit in range(10)]
    return make_checkpoint(tmp_path_factory.mktemp("model") / "digits.safetensors", 10, size=8, classes=classes)
