"""Every kind of problem, in a folder that has it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.classification.check import BLOCK, Duplicates, Range, check
from convnext.classification.open import open_dataset
from convnext.errors import ConvNextError


def picture(seed: int, height: int = 10, width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def healthy(tmp_path):
    for seed in range(8):
        part, label = ("train" if seed < 6 else "val"), ("cat" if seed % 2 else "dog")
        save(picture(seed), tmp_path / part / label / f"{seed}.png")
    return tmp_path


def test_healthy(healthy):
    report = check(str(healthy))
    assert report.classes == ["cat", "dog"]
    assert report.train_counts == [3, 3]
    assert report.val_counts == [1, 1]
    assert report.imbalance == 1
    assert report.errors == report.warnings == report.duplicates == []
    assert report.unreadable_train == report.unreadable_val == {}
    assert report.short_side == Range(10, 10.0, 10)
    assert report.long_side == Range(20, 20.0, 20)
    assert report.modes == {"RGB": 8}
    json.dumps(asdict(report))


def test_sizes_and_modes(healthy):
    save(picture(20, 64, 30).convert("L"), healthy / "train/cat/tall.jpg")
    save(picture(21, 5, 5).convert("CMYK"), healthy / "train/cat/small.jpg")
    report = check(str(healthy))
    assert report.short_side == Range(5, 10.0, 30)
    assert report.long_side == Range(5, 20.0, 64)
    assert report.modes == {"RGB": 8, "L": 1, "CMYK": 1}
    assert not report.errors


def test_unreadable(healthy):
    (healthy / "train/cat/1.png").write_bytes(b"junk")
    report = check(str(healthy))
    assert report.unreadable_train.keys() == {"train/cat/1.png"}
    assert "none of JPEG" in report.unreadable_train["train/cat/1.png"]
    assert report.train_counts == [3, 3]
    assert report.modes == {"RGB": 7}
    assert report.errors == ["1 of 6 training images cannot be read; a training would stop."]
    assert report.warnings == []
    tolerant = check(str(healthy), max_corrupt_share=0.5)
    assert tolerant.errors == []
    assert tolerant.warnings == ["1 of 6 training images cannot be read; others will replace them."]


def test_unreadable_in_val(healthy):
    (healthy / "val/cat/7.png").write_bytes((healthy / "val/cat/7.png").read_bytes()[:60])
    report = check(str(healthy), max_corrupt_share=0.5)
    assert report.unreadable_val.keys() == {"val/cat/7.png"}
    assert report.unreadable_train == {}
    assert report.errors == ["1 of 2 validation images cannot be read."]


def test_nothing_is_readable(healthy):
    for path in healthy.rglob("*.png"):
        path.write_bytes(b"")
    report = check(str(healthy))
    assert len(report.unreadable_train) == 6
    assert report.short_side is None
    assert report.long_side is None
    assert report.duplicates == []


def test_duplicates_are_found_by_their_pixels(healthy):
    save(picture(1), healthy / "train/cat/again.png")
    save(picture(3), healthy / "val/cat/leak.tif")  # another format
    save(picture(5), healthy / "train/dog/other label.png", compress_level=1, dpi=(300, 300))  # another header
    save(picture(0, 20, 10), healthy / "train/dog/same bytes.png")  # another shape of the same pixels is no duplicate
    report = check(str(healthy))
    assert report.duplicates == [
        Duplicates(["train/cat/1.png", "train/cat/again.png"], [], ["cat"]),
        Duplicates(["train/cat/3.png"], ["val/cat/leak.tif"], ["cat"]),
        Duplicates(["train/cat/5.png", "train/dog/other label.png"], [], ["cat", "dog"]),
    ]
    assert report.warnings == [
        "1 of 3 validation images are in the training part, too.",
        "2 of 9 training images are copies of others.",
        "1 images are there more than once, with different labels.",
    ]
    assert report.errors == []


def test_imbalance(healthy):
    for seed in range(30, 57):
        save(picture(seed), healthy / "train/cat" / f"{seed}.png")
    report = check(str(healthy))
    assert report.imbalance == 10
    assert report.warnings == ["The largest class has 10 times as many training images as the smallest."]
    without = replace(report, train_counts=[0, 3])
    assert without.imbalance == float("inf")
    assert without.errors == ["No training images of cat."]


def test_a_class_that_val_lacks(healthy):
    (healthy / "val/cat/7.png").unlink()
    assert check(str(healthy)).warnings == ["No validation images of cat."]


def test_split_and_threads_do_not_change_the_report(healthy):
    root = str(healthy / "train")
    one = check(root, val_share=0.4, seed=1, threads=1)
    assert one.val_counts == [1, 1]
    assert check(root, val_share=0.4, seed=1, threads=4) == one


def test_progress_and_images_that_are_no_files():
    calls = []
    report = check("digits", progress=lambda done, total: calls.append((done, total)))
    assert sum(report.train_counts) + sum(report.val_counts) == 1797
    assert report.modes == {"L": 1797}
    assert not report.errors
    done = [done for done, _ in calls]
    assert done[0] == BLOCK
    assert done == sorted(set(done))
    assert done[-1] == 1797
    assert {total for _, total in calls} == {1797}


def test_missing_data(tmp_path):
    with pytest.raises(ConvNextError, match="There is no data"):
        check(str(tmp_path / "nowhere"))


def test_one_class_is_an_error_and_files_that_look_like_labels_are_named(tmp_path):
    """A table and text of no format that is read: no class folders, nothing to learn."""
    for seed in range(4):
        save(picture(seed), tmp_path / "images" / f"{seed}.png")
        (tmp_path / "images" / f"{seed}.txt").write_text("a cat")
    for name in ("scores.csv", "settings.yaml", "notes.txt", "classes.txt"):
        (tmp_path / name).write_text("")
    (error,) = check(str(tmp_path)).errors
    assert "one class, 'images': there is nothing to learn" in error
    assert "scores.csv, settings.yaml, images/*.txt (4 files)" in error
    with pytest.raises(ConvNextError, match="one class, 'images'.*scores.csv"):
        open_dataset(str(tmp_path), 0.25, 0)
    (tmp_path / "classes.txt").unlink()  # with it, labels/ would be YOLO's
    (tmp_path / "labels").mkdir()
    for seed in range(4):
        (tmp_path / "labels" / f"{seed}.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(ConvNextError, match=r"labels holds no image.*not read: .*labels/\*.txt \(4 files\)"):
        open_dataset(str(tmp_path), 0.25, 0)


def test_files_that_look_like_labels_are_a_warning(healthy):
    (healthy / "labels.csv").write_text("1.png,cat")
    assert check(str(healthy)).warnings == ["Files that look like labels are not read: labels.csv."]


def test_a_class_of_one_image_has_no_validation_image(tmp_path):
    for seed in range(5):
        save(picture(seed), tmp_path / ("dog" if seed else "cat") / f"{seed}.png")
    (warning,) = check(str(tmp_path), val_share=0.5).warnings
    assert warning == "No validation images of cat. Only one image each have cat: add some."
