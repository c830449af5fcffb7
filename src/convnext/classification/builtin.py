"""Datasets by name: scikit-learn's digits, which need no download, and those of torchvision."""

import inspect
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.classification.dataset import ArrayDataset, ImageDataset, hold_out
from convnext.data.images import ImageError
from convnext.errors import ConvNextError, nearest

DIGITS_VAL_SHARE = 0.2
TRAIN_SPLITS = ("train", "trainval")
VAL_SPLITS = ("val", "valid", "test")
TORCHVISION_ROOT = "~/.cache/convnext/torchvision"


def open_digits(seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The (train, val) images of scikit-learn's 1,797 handwritten digits, 8x8 grey, 20 % of each digit held out."""
    # the file itself: importing scikit-learn takes longer than reading it a hundred times
    (package,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr]
    table = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64)
    counts, labels = table[:, :-1], table[:, -1]  # counts of 0..16 written pixels in 4x4 blocks
    pixels = np.rint(counts.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    dataset = ArrayDataset("digits", pixels, labels, [str(digit) for digit in range(10)])
    return hold_out(dataset, DIGITS_VAL_SHARE, seed)


class TorchvisionDataset(ImageDataset):
    """A classification dataset of torchvision; image i is called `prefix/i`.

    Raises:
        ConvNextError: it has no class label per image.
    """

    def __init__(self, prefix: str, samples):
        self._prefix = prefix
        self._samples = samples
        self.labels = _labels(prefix, samples)
        # ImageNet's are tuples of synonyms
        names = [name if isinstance(name, str) else ", ".join(name) for name in getattr(samples, "classes", ())]
        self.classes = names or [str(label) for label in range(self.labels.max() + 1)]

    def name(self, i: int) -> str:
        return f"{self._prefix}/{i}"

    def source(self, i: int) -> Image.Image:
        try:
            return self._samples[int(i)][0]
        except Exception as error:  # torchvision decodes here, which raises anything
            raise ImageError(f"Cannot read {self.name(i)}: {error}. Get a fresh copy of it.") from error


def open_torchvision(spec: str, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The (train, val) images of `NAME` or `NAME@ROOT`, downloaded to ROOT where torchvision can.

    Its training part goes with its validation part or else its test part; where it has no parts, `val_share` of each
    class is held out by `seed`.

    Raises:
        ConvNextError: no such dataset, not one for classification, or a failed download.
    """
    import torchvision.datasets

    name, _, root = spec.partition("@")
    known = {key for key in torchvision.datasets.__all__ if inspect.isclass(getattr(torchvision.datasets, key))}
    if name not in known:
        raise ConvNextError(f"torchvision has no dataset {name!r}.{nearest(name, known)} Try torchvision:CIFAR10.")
    kind = getattr(torchvision.datasets, name)
    accepted = inspect.signature(kind).parameters
    options = {"root": str(Path(root or TORCHVISION_ROOT).expanduser()), "download": True}
    options = {key: value for key, value in options.items() if key in accepted}
    if "train" in accepted:
        part_options = [[options | {"train": train}] for train in (True, False)]
    elif "split" in accepted:
        part_options = [[options | {"split": split} for split in splits] for splits in (TRAIN_SPLITS, VAL_SPLITS)]
    else:
        return hold_out(TorchvisionDataset(name, _construct(kind, [options])), val_share, seed)
    train = TorchvisionDataset(f"{name}/train", _construct(kind, part_options[0]))
    val = TorchvisionDataset(f"{name}/val", _construct(kind, part_options[1]))
    train.classes = val.classes = max(train.classes, val.classes, key=len)
    return train, val


def _construct(kind: type, candidates: list[dict]):
    """The dataset with the first options that it does not refuse."""
    options, *others = candidates
    try:
        return kind(**options)
    except Exception as error:  # whatever a download raises
        if isinstance(error, ValueError) and others:  # it has no such split
            return _construct(kind, others)
        call = f"{kind.__name__}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
        raise ConvNextError(
            f"torchvision cannot load {call}: {error}. If the download failed, make this call on a machine with a "
            f"network (`from torchvision.datasets import {kind.__name__}`), and copy its files to "
            f"{options.get('root', '')} on this one."
        ) from error


def _labels(prefix: str, samples) -> np.ndarray:
    try:
        for attribute in ("targets", "labels", "_labels", "y"):
            labels = np.asarray(getattr(samples, attribute, None))
            if labels.shape == (len(samples),) and np.issubdtype(labels.dtype, np.integer):
                return labels.astype(np.int64)
        return np.array([int(samples[i][1]) for i in range(len(samples))], dtype=np.int64)
    except Exception as error:
        raise ConvNextError(
            f"torchvision's {prefix} has no class label per image ({error}), so it cannot train a classifier. Take a "
            "dataset for classification, such as torchvision:CIFAR10."
        ) from error
