"""Every kind of problem, in a folder that has it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.classification.check import BLOCK, Range
from convnext.errors import ConvNextError
from convnext.segmentation.check import check_masks

LABELS = np.array([[0, 0, 1, 255], [0, 1, 1, 2]], dtype=np.uint8)


def write(path: Path, values: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def write_pair(root: Path, name: str, labels: np.ndarray = LABELS) -> None:
    generator = np.random.default_rng(0)
    write(root / "images" / f"{name}.png", generator.integers(0, 256, (*labels.shape, 3), dtype=np.uint8))
    write(root / "masks" / f"{name}.png", labels)


@pytest.fixture
def healthy(tmp_path):
    for name in ("train/a", "train/b", "train/c", "val/d"):
        write_pair(tmp_path, name)
    (tmp_path / "classes.txt").write_text("sky\nsea\nship")
    return tmp_path


def test_healthy(healthy):
    report = check_masks(str(healthy))
    assert report.errors == report.warnings == []
    assert report.classes == ["sky", "sea", "ship"]
    assert (report.train.images, report.val.images) == (3, 1)
    assert report.train.pixels == [9, 9, 3]
    assert report.train.images_with == [3, 3, 3]
    assert report.val.pixels == [3, 3, 1]
    assert report.train.ignored == 3
    assert report.train.ignored_share == 1 / 8
    assert report.train.shares == [9 / 21, 9 / 21, 3 / 21]
    assert report.short_side == Range(2, 2.0, 2)
    assert report.long_side == Range(4, 4.0, 4)
    json.dumps(asdict(report))


def test_sizes(healthy):
    write_pair(healthy, "train/tall", np.zeros((7, 3), np.uint8))
    report = check_masks(str(healthy))
    assert report.short_side == Range(2, 2.0, 3)
    assert report.long_side == Range(4, 4.0, 7)


def test_classes_that_are_never_seen(healthy):
    (healthy / "classes.txt").write_text("sky\nsea\nship\nbird\nplane")
    write_pair(healthy, "train/a", np.full((2, 4), 3, np.uint8))
    report = check_masks(str(healthy))
    assert report.errors == []
    assert report.warnings == [
        "1 of 5 classes (plane) have no training pixel.",
        "2 of 5 classes (bird, plane) have no validation pixel.",
    ]
    assert report.train.images_with == [2, 2, 2, 1, 0]


def test_ignored(healthy):
    write_pair(healthy, "val/d", np.array([[0, 1, 2, 255], [255, 255, 255, 255]], np.uint8))
    report = check_masks(str(healthy))
    assert report.val.ignored == 5
    assert report.warnings == ["62 % of the validation pixels are ignored."]
    for name in ("a", "b", "c"):
        write_pair(healthy, f"train/{name}", np.full((2, 4), 255, np.uint8))
    assert check_masks(str(healthy)).errors == ["No pixel of the training images belongs to a class."]


def test_reduce_zero_label(healthy):
    (healthy / "classes.txt").write_text("sea\nship")
    report = check_masks(str(healthy), reduce_zero_label=True)
    assert report.errors == report.warnings == []
    assert report.train.pixels == [9, 3]
    assert report.train.ignored == 12
    wrong = check_masks(str(healthy))
    assert wrong.train.unknown == {f"images/train/{name}.png": [2] for name in "abc"}
    assert wrong.errors[0] == (
        "3 of 3 training images (images/train/a.png, images/train/b.png, images/train/c.png) have labels of value 2; "
        "expected: 2 classes' values from 0 to 1, and 255 for ignored pixels."
    )


@pytest.fixture
def broken(healthy):
    write(healthy / "masks/train/a.png", np.zeros((2, 3), np.uint8))
    (healthy / "images/train/b.png").write_bytes(b"junk")
    write(healthy / "masks/train/c.png", np.array([[0, 0, 9, 9], [0, 0, 7, 254]], np.uint8))
    return healthy


def test_unusable(broken):
    report = check_masks(str(broken))
    train = report.train
    assert train.sizes_differ.keys() == {"images/train/a.png"}
    assert "4 x 2 and the labels are 3 x 2" in train.sizes_differ["images/train/a.png"]
    assert train.unreadable.keys() == {"images/train/b.png"}
    assert "none of JPEG" in train.unreadable["images/train/b.png"]
    assert train.unknown == {"images/train/c.png": [7, 9, 254]}
    assert (train.images, train.unusable, train.pixels) == (3, 3, [0, 0, 0])
    what = "1 of 3 training images (images/train/{}.png)"
    assert [text[: len(what) + 12] for text in report.errors] == [
        f"{what.format('b')} or their label"[: len(what) + 12],
        f"{what.format('a')} differ from their"[: len(what) + 12],
        f"{what.format('c')} have labels of"[: len(what) + 12],
        "No pixel of the training images belongs to a class."[: len(what) + 12],
    ]
    assert "of value 7, 9, 254; expected: 3 classes' values from 0 to 2" in report.errors[2]
    assert report.warnings == []


def test_a_few_unusable_ones_are_tolerated_in_training_alone(broken):
    tolerant = check_masks(str(broken), max_corrupt_share=1.0)
    assert tolerant.errors == ["No pixel of the training images belongs to a class."]
    assert len(tolerant.warnings) == 4
    assert tolerant.warnings[3] == "Other training images will replace those that cannot be used."
    swapped = replace(tolerant, train=tolerant.val, val=tolerant.train)
    assert len(swapped.errors) == 4
    assert "1 of 3 validation images" in swapped.errors[0]


def test_files_without_a_partner(healthy):
    (healthy / "masks/train/b.png").unlink()
    (healthy / "images/val/d.png").unlink()
    report = check_masks(str(healthy))
    assert report.train.without_mask == ["images/train/b.png"]
    assert report.val.without_image == ["masks/val/d.png"]
    assert report.errors == [
        "1 training images (images/train/b.png) have no labels.",
        "There are no validation images with labels.",
    ]
    assert report.warnings == ["1 validation label files (masks/val/d.png) have no image."]


def test_orientation_that_no_size_shows(healthy):
    for name, orientation in (("a", 3), ("b", 6), ("c", 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(healthy / f"images/train/{name}.png") as image:
            image.save(healthy / f"images/train/{name}.png", exif=exif)
    report = check_masks(str(healthy), max_corrupt_share=0.5)
    assert report.train.mirrored == ["images/train/a.png"]
    assert report.train.sizes_differ.keys() == {"images/train/b.png"}
    assert "lie on their side" in report.train.sizes_differ["images/train/b.png"]
    assert "1 training images (images/train/a.png) are mirrored or turned" in report.warnings[2]


def test_held_out_and_progress(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nsea\nship")
    for i in range(BLOCK + 12):
        write_pair(tmp_path, f"{i:03d}")
    calls = []
    one = check_masks(str(tmp_path), 0.2, seed=3, threads=1, progress=lambda done, total: calls.append((done, total)))
    assert (one.train.images, one.val.images) == (112, 28)
    assert sum(one.train.pixels) == 112 * 7
    assert calls == [(112, 140), (140, 140)]
    assert check_masks(str(tmp_path), 0.2, seed=3, threads=4) == one


def test_no_val_and_no_train(healthy):
    (healthy / "images/train").rename(healthy / "aside")
    assert "There are no training images with labels." in check_masks(str(healthy)).errors
    with pytest.raises(ConvNextError, match="There is no folder"):
        check_masks(str(healthy / "nowhere"))
