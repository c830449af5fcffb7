"""Folders of images: what is found, how it is split, what a person is told when it is laid out otherwise."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.classification.folder import FolderDataset
from convnext.classification.open import fingerprint, open_dataset, open_for_evaluation, open_split
from convnext.data.conventions import VAL_NAMES
from convnext.data.images import ImageError
from convnext.errors import ConvNextError


def write(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3), value).save(path)


def class_folders(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for i in range(count):
            write(root / name / f"{i:03d}.png", i)
    return root


def names(dataset) -> list[str]:
    return [dataset.name(i) for i in range(len(dataset))]


@pytest.mark.parametrize("val", VAL_NAMES)
def test_train_and_val(tmp_path, val):
    class_folders(tmp_path / "train", dog=2, cat=3)
    class_folders(tmp_path / val, dog=1)
    train, held_out = open_dataset(str(tmp_path), 0.5, 0)
    assert train.classes == held_out.classes == ["cat", "dog"]
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert names(train)[-2:] == ["train/dog/000.png", "train/dog/001.png"]
    assert names(held_out) == [f"{val}/dog/000.png"]
    assert held_out.labels.tolist() == [1]
    assert train.source(2) == tmp_path / "train/cat/002.png"
    assert train.image(2).mode == "RGB"
    assert train.image(2).getpixel((0, 0)) == (2, 2, 2)
    assert names(open_split(str(tmp_path), "train", 0.5, 0)) == names(train)
    assert names(open_split(str(tmp_path), "val", 0.5, 0)) == names(held_out)


def test_val_comes_before_test(tmp_path):
    for part in ("train", "test", "val"):
        class_folders(tmp_path / part, cat=1)
    assert names(open_split(str(tmp_path), "val", 0.5, 0)) == ["val/cat/000.png"]


def test_what_counts_as_an_image(tmp_path):
    for path in ("b/deep/er/x.JPEG", "b/y.webp", "b/a.png", "a/1.bmp", "b/.hidden.png", "b/.cache/z.png", ".git/q.png"):
        write(tmp_path / path)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    (tmp_path / "a" / "ümlaut täg.jpg").symlink_to(tmp_path / "b" / "a.png")
    dataset = FolderDataset(tmp_path)
    assert dataset.classes == ["a", "b"]
    assert names(dataset) == ["a/1.bmp", "a/ümlaut täg.jpg", "b/a.png", "b/deep/er/x.JPEG", "b/y.webp"]
    assert dataset.image(1).size == (4, 3)


def test_a_name_that_is_not_utf8(tmp_path):
    write(tmp_path / "cat" / "a.png")
    os.rename(tmp_path / "cat" / "a.png", os.fsencode(tmp_path / "cat") + b"/\xff.png")
    os.rename(tmp_path / "cat", os.fsencode(tmp_path) + b"/\xfe")
    dataset = FolderDataset(tmp_path)
    assert dataset.image(0).size == (4, 3)
    assert len(fingerprint(dataset)) == 64


def test_split_by_seed(tmp_path):
    class_folders(tmp_path, many=40, few=3, two=2, one=1)
    train, val = open_dataset(str(tmp_path), 0.1, seed=0)
    assert np.bincount(train.labels).tolist() == [2, 36, 1, 1]  # few, many, one, two
    assert np.bincount(val.labels, minlength=4).tolist() == [1, 4, 0, 1]
    assert sorted(names(train) + names(val)) == sorted(names(FolderDataset(tmp_path)))
    assert names(open_split(str(tmp_path), "val", 0.1, seed=0)) == names(val)
    assert names(open_split(str(tmp_path), "val", 0.1, seed=1)) != names(val)
    # pinned: another split would move images of a finished training into its validation
    assert [name for name in names(val) if "many" in name] == [
        "many/008.png",
        "many/010.png",
        "many/017.png",
        "many/028.png",
    ]

    most = open_split(str(tmp_path), "val", 0.99, seed=0)
    assert np.bincount(most.labels, minlength=4).tolist() == [2, 39, 0, 1]

    elsewhere = class_folders(tmp_path / "copy", many=40, few=3, two=2, one=1)
    assert names(open_split(str(elsewhere), "val", 0.1, seed=0)) == names(val)


def test_train_alone_is_split(tmp_path):
    class_folders(tmp_path / "train", cat=10, dog=10)
    train, val = open_dataset(str(tmp_path), 0.2, 0)
    assert np.bincount(val.labels).tolist() == [2, 2]
    assert not set(names(train)) & set(names(val))
    assert names(open_for_evaluation(str(tmp_path), None, 0.2, 0)) == names(val)


@pytest.mark.parametrize("share", [1, -0.1, 1.5])
def test_share_out_of_range(tmp_path, share):
    class_folders(tmp_path, cat=2)
    with pytest.raises(ConvNextError, match="validation share"):
        open_dataset(str(tmp_path), share, 0)


def test_nothing_to_hold_out(tmp_path):
    class_folders(tmp_path, cat=1, dog=1)
    with pytest.raises(ConvNextError, match="none can be held out"):
        open_dataset(str(tmp_path), 0.1, 0)


def test_missing_folder_suggests_a_sibling(tmp_path):
    class_folders(tmp_path / "flowers" / "train", rose=1)
    with pytest.raises(ConvNextError, match=r"no 'flower'\. Did you mean 'flowers'"):
        open_dataset(str(tmp_path / "flower" / "train"), 0.1, 0)


def test_missing_data_suggests_a_builtin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConvNextError, match="Did you mean 'digits'"):
        open_dataset("digit", 0.1, 0)


def test_wrong_layouts(tmp_path):
    def message(path: Path | str) -> str:
        with pytest.raises(ConvNextError) as caught:
            open_dataset(str(path), 0.1, 0)
        return str(caught.value)

    assert "No data is given" in message("")
    write(tmp_path / "file.png")
    assert "is a file" in message(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    assert "has no class folders" in message(tmp_path / "empty")
    write(tmp_path / "flat" / "a.png")
    assert "has no class folders" in message(tmp_path / "flat")
    (tmp_path / "no-classes" / "train").mkdir(parents=True)
    assert f"{tmp_path}/no-classes/train has no class folders" in message(tmp_path / "no-classes")
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    assert "holds an image" in message(tmp_path / "hollow")
    class_folders(tmp_path / "partly" / "train", cat=1)
    (tmp_path / "partly" / "train" / "dog").mkdir()
    (tmp_path / "partly" / "train" / "dog" / "a.txt").touch()
    text = message(tmp_path / "partly")
    assert f"{tmp_path}/partly/train/dog holds no image" in text
    assert ".jpeg" in text
    class_folders(tmp_path / "val-only" / "val", cat=1)
    assert "has val/ but no train/" in message(tmp_path / "val-only")
    class_folders(tmp_path / "extra" / "train", kitten=1, dog=1)
    class_folders(tmp_path / "extra" / "val", dog=1, kiten=1)
    assert "'kiten' that the training data lacks. Did you mean 'kitten'" in message(tmp_path / "extra")
    class_folders(tmp_path / "hollow-val" / "train", cat=1)
    (tmp_path / "hollow-val" / "val" / "cat").mkdir(parents=True)
    assert f"{tmp_path}/hollow-val/val holds an image" in message(tmp_path / "hollow-val")


def test_a_loop_of_links(tmp_path):
    class_folders(tmp_path, cat=1)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat" / "loop")
    with pytest.raises(ConvNextError, match=r"Cannot list .*loop"):
        FolderDataset(tmp_path)


def test_a_folder_called_test_among_classes_is_a_class(tmp_path):
    class_folders(tmp_path, exam=2, test=2)
    assert open_split(str(tmp_path), "train", 0.5, 0).classes == ["exam", "test"]


def test_unreadable_image_is_named(tmp_path):
    class_folders(tmp_path, cat=2)
    (tmp_path / "cat" / "000.png").write_bytes(b"junk")
    dataset = FolderDataset(tmp_path)
    with pytest.raises(ImageError, match=r"cat/000\.png"):
        dataset.image(0)
    with pytest.raises(ImageError, match=r"cat/000\.png"):
        dataset.subset([1, 0]).image(1)


def test_subset(tmp_path):
    dataset = FolderDataset(class_folders(tmp_path, a=3, b=3))
    part = dataset.subset([5, 1, 1]).subset(np.array([0, 2]))
    assert len(part) == 2
    assert names(part) == ["b/002.png", "a/001.png"]
    assert part.labels.tolist() == [1, 0]
    assert part.classes == dataset.classes
    assert part.image(0).getpixel((0, 0)) == (2, 2, 2)


def test_travels_to_a_loader_process(tmp_path):
    dataset = FolderDataset(class_folders(tmp_path, a=200, b=200))
    content = pickle.dumps(dataset)
    copy = pickle.loads(content)
    assert names(copy) == names(dataset)
    assert len(content) < len(dataset) * (8 + 8 + len("a/000.png")) + 1000  # label, offset and path, and nothing else
    assert not any(isinstance(value, list) and len(value) > 2 for value in vars(dataset).values())


def test_evaluation_of_class_folders_takes_all(tmp_path):
    class_folders(tmp_path, dog=3, cat=2)
    dataset = open_for_evaluation(str(tmp_path), None, 0.5, 0)
    assert names(dataset) == names(FolderDataset(tmp_path))
    model = ["bird", "cat", "cow", "dog"]
    dataset = open_for_evaluation(str(tmp_path), model, 0.5, 0)
    assert dataset.classes == model
    assert dataset.labels.tolist() == [1, 1, 3, 3, 3]
    assert dataset.name(0) == "cat/000.png"


def test_evaluation_takes_the_validation_part(tmp_path):
    class_folders(tmp_path / "train", cat=1, dog=1)
    class_folders(tmp_path / "val", dog=2)
    dataset = open_for_evaluation(str(tmp_path), ["dog", "cat"], 0.5, 0)
    assert names(dataset) == ["val/dog/000.png", "val/dog/001.png"]
    assert dataset.labels.tolist() == [0, 0]
    for file in (tmp_path / "train").rglob("*.png"):
        file.unlink()
    assert open_for_evaluation(str(tmp_path), None, 0.5, 0).labels.tolist() == [1, 1]  # in the order of train
    with pytest.raises(ConvNextError, match="such as 'cat'"):
        open_for_evaluation(str(tmp_path), ["dog", "cow"], 0.5, 0)


def test_evaluation_of_a_validation_part_alone(tmp_path):
    class_folders(tmp_path / "val", cat=2)
    assert names(open_for_evaluation(str(tmp_path), ["cat", "dog"], 0.5, 0)) == ["val/cat/000.png", "val/cat/001.png"]


def test_evaluation_with_other_classes(tmp_path):
    class_folders(tmp_path, kiten=1, dog=1)
    with pytest.raises(
        ConvNextError, match=r"1 classes that the model does not know, such as 'kiten'\. Did .* 'kitten'"
    ):
        open_for_evaluation(str(tmp_path), ["dog", "kitten"], 0.5, 0)
    unnamed = open_for_evaluation(str(tmp_path), ["0", "1"], 0.5, 0)
    assert unnamed.labels.tolist() == [0, 1]
    with pytest.raises(ConvNextError, match="2 classes and the model 3"):
        open_for_evaluation(str(tmp_path), ["0", "1", "2"], 0.5, 0)


def test_fingerprint(tmp_path):
    class_folders(tmp_path / "a", cat=3, dog=2)
    class_folders(tmp_path / "b", cat=3, dog=2)
    one, other = FolderDataset(tmp_path / "a"), FolderDataset(tmp_path / "b")
    assert fingerprint(one) == fingerprint(other)
    different = {
        fingerprint(one),
        fingerprint(one.subset([0, 1, 2, 3])),
        fingerprint(one.subset([1, 0, 2, 3, 4])),
        fingerprint(one.relabeled(one.labels, ["cat", "cow"])),
        fingerprint(one.relabeled(1 - one.labels, one.classes)),
    }
    assert len(different) == 5
    assert all(len(text) == 64 for text in different)
