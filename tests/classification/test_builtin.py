"""Datasets by name, without a network."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from convnext.classification.open import fingerprint, open_dataset, open_for_evaluation, open_split
from convnext.data.images import ImageError
from convnext.errors import ConvNextError


class Parts(torchvision.datasets.VisionDataset):
    """A stand-in: grey images whose value is the index."""

    classes = (("tabby", "cat"), "dog")

    def __init__(self, root, count):
        super().__init__(root)
        self.targets = [i % 2 for i in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return Image.new("L", (2, 2), i), self.targets[i]


class ByTrain(Parts):
    def __init__(self, root, train=True, download=False):
        assert download
        super().__init__(root, 6 if train else 4)


class BySplit(Parts):
    def __init__(self, root, split="train"):
        if split not in ("trainval", "test"):
            raise ValueError(f"Unknown value {split!r} for argument split")
        super().__init__(root, 6 if split == "trainval" else 4)


class NoTargets(Parts):
    classes = ()

    def __init__(self, root, train=True):
        super().__init__(root, 6)
        self.values, self.targets = self.targets, range(len(self.targets) + 1)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return Image.new("L", (2, 2), i), np.int32(self.values[i])


class Boxes(Parts):
    def __init__(self, root, train=True):
        super().__init__(root, 2)
        self.targets = ["a.xml", "b.xml"]


class Unreachable(Parts):
    def __init__(self, root, train=True, download=False):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")


class Broken(ByTrain):
    def __getitem__(self, i):
        raise OSError("image file is truncated")


class SmallFake(torchvision.datasets.FakeData):
    def __init__(self, size=30, image_size=(3, 8, 8)):
        super().__init__(size, image_size)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    for kind in (ByTrain, BySplit, NoTargets, Boxes, Unreachable, Broken):
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
        monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, kind.__name__))
    monkeypatch.setattr(torchvision.datasets, "FakeData", SmallFake)


def test_digits():
    train, val = open_dataset("digits", 0.5, 0)  # the share is the dataset's own
    assert (len(train), len(val)) == (1438, 359)
    assert train.classes == [str(digit) for digit in range(10)]
    share = np.bincount(val.labels) / (np.bincount(val.labels) + np.bincount(train.labels))
    np.testing.assert_allclose(share, 0.2, atol=0.004)
    names = {part.name(i) for part in (train, val) for i in range(len(part))}
    assert names == {f"digits/{i}" for i in range(1797)}
    everything = np.stack([np.asarray(part.image(i)) for part in (train, val) for i in range(len(part))])
    assert everything.shape == (1797, 8, 8, 3)
    assert (everything.min(), everything.max()) == (0, 255)
    assert set(np.unique(everything)) == {round(value * 255 / 16) for value in range(17)}
    assert train.source(0).mode == "L"


def test_digits_are_labelled_right():
    from sklearn.datasets import load_digits

    val = open_split("digits", "val", 0.1, 0)
    digits = load_digits()
    for i in (0, 100, 358):
        row = int(val.name(i).split("/")[1])
        assert val.labels[i] == digits.target[row]
        np.testing.assert_array_equal(np.asarray(val.image(i))[..., 0], np.rint(digits.images[row] * 255 / 16))


def test_digits_split_depends_on_the_seed_alone():
    assert fingerprint(open_split("digits", "val", 0.1, 3)) == fingerprint(open_split("digits", "val", 0.3, 3))
    assert fingerprint(open_split("digits", "val", 0.1, 3)) != fingerprint(open_split("digits", "val", 0.1, 4))
    assert fingerprint(open_for_evaluation("digits", None, 0.1, 3)) == fingerprint(open_split("digits", "val", 0.1, 3))


def test_torchvision_by_train(tmp_path):
    train, val = open_dataset(f"torchvision:ByTrain@{tmp_path}", 0.1, 0)
    assert (len(train), len(val)) == (6, 4)
    assert train.classes == val.classes == ["tabby, cat", "dog"]
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert train.labels.dtype == np.int64
    assert (train.name(5), val.name(3)) == ("ByTrain/train/5", "ByTrain/val/3")
    assert train.image(5).getpixel((0, 0)) == (5, 5, 5)
    assert pickle.loads(pickle.dumps(val)).image(3).getpixel((0, 0)) == (3, 3, 3)


def test_torchvision_by_split(tmp_path):
    assert [len(part) for part in open_dataset(f"torchvision:BySplit@{tmp_path}", 0.1, 0)] == [6, 4]


def test_torchvision_labels_from_samples(tmp_path):
    train, _ = open_dataset(f"torchvision:NoTargets@{tmp_path}", 0.1, 0)
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert train.classes == ["0", "1"]


def test_fake_data():
    train, val = open_dataset("torchvision:FakeData", 0.2, 0)
    assert len(train) + len(val) == 30
    assert len(val) >= 5
    assert train.image(0).size == (8, 8)
    assert train.classes == val.classes
    assert fingerprint(train) == fingerprint(open_split("torchvision:FakeData", "train", 0.2, 0))


def test_torchvision_errors(tmp_path):
    def message(name: str) -> str:
        with pytest.raises(ConvNextError) as caught:
            open_dataset(f"torchvision:{name}@{tmp_path}", 0.1, 0)
        return str(caught.value)

    assert "no dataset 'CIFAR1O'. Did you mean 'CIFAR10'" in message("CIFAR1O")
    assert "no dataset ''" in message("")
    assert "no dataset 'wrap_dataset_for_transforms_v2'" in message("wrap_dataset_for_transforms_v2")
    assert "no class label per image" in message("Boxes")
    assert "annFile" in message("CocoDetection")
    text = message("Unreachable")
    assert f"Unreachable(root='{tmp_path}', download=True, train=True): <urlopen error" in text
    assert f"copy its files to {tmp_path}" in text


def test_torchvision_unreadable_image(tmp_path):
    train, _ = open_dataset(f"torchvision:Broken@{tmp_path}", 0.1, 0)
    with pytest.raises(ImageError, match="Broken/train/2: image file is truncated"):
        train.image(2)


def test_torch_is_not_imported_to_open_data():
    code = "import sys, convnext.classification.check; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
