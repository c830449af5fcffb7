"""Corrupted folders: ImageNet-C's layout, the same pixels as on the fly, and a write that goes on where it stopped."""

import json

import numpy as np
import pytest
from PIL import Image

from convnext.classification.open import open_for_evaluation
from convnext.classification.transforms import Preprocess
from convnext.data.corruptions import corrupt
from convnext.errors import ConvNextError
from convnext.robustness import write
from convnext.robustness.generated import Corrupted, choose
from convnext.robustness.sets import released_units
from convnext.robustness.write import MARKER, write_corrupted


@pytest.fixture
def photos(tmp_path, class_folders):
    folder = class_folders(tmp_path / "photos", ["cat", "dog"], per_class=2, size=80)
    (folder / "cat" / "old").mkdir()
    (folder / "cat" / "0.jpg").rename(folder / "cat" / "old" / "1.jpg")
    Image.open(folder / "dog" / "1.jpg").save(folder / "dog" / "0.png")
    return folder


def test_the_layout_and_the_pixels(photos, tmp_path):
    done = []
    out = tmp_path / "out"
    written = write_corrupted(str(photos), out, ["fog", "shot_noise"], [1, 5], 3, 48, lambda *now: done.append(now))
    assert written == 5 * 4
    assert done == [(i, 5) for i in range(1, 6)]
    found = {str(path.relative_to(out / "fog" / "5")) for path in (out / "fog" / "5").rglob("*.jpg")}
    assert found == {"cat/1.jpg", "cat/old/1.jpg", "dog/0.jpg", "dog/1.jpg", "dog/0.png.jpg"}
    assert json.loads((out / MARKER).read_text())["made"]["seed"] == 3

    images = open_for_evaluation(str(photos), None, 0.1, 0)
    resize_crop = Preprocess.for_size(48).resize_crop
    on_the_fly = Corrupted(images, resize_crop, "fog", 5, seed=3)
    stored = Corrupted(images, resize_crop, "fog", 5, seed=3, jpeg=85)
    for i in range(len(images)):
        stem = images.name(i).replace(".png", ".png.jpg")
        on_disk = np.asarray(Image.open(out / "fog" / "5" / stem), dtype=float)
        made = on_the_fly.image(i)
        assert made == corrupt(resize_crop(images.image(i)), "fog", 5, 3, images.name(i))
        assert on_disk.shape == (48, 48, 3)
        assert np.abs(on_disk - np.asarray(made)).mean() < 5  # what a JPEG of quality 85 takes away
        assert np.array_equal(on_disk, np.asarray(stored.image(i), dtype=float))


def test_it_goes_on_where_it_stopped(photos, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []

    def stop_at_the_fourth(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return corrupt(*args)

    monkeypatch.setattr(write, "corrupt", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        write_corrupted(str(photos), out, ["contrast"], [1, 2], 0, 32)
    assert write_corrupted(str(photos), out, ["contrast"], [1, 2], 0, 32) == 10 - 3
    assert write_corrupted(str(photos), out, ["contrast"], [1, 2], 0, 32) == 0
    assert write_corrupted(str(photos), out, ["contrast"], [1, 2, 3], 0, 32) == 5


def test_a_folder_is_not_mixed(photos, tmp_path):
    out = tmp_path / "out"
    write_corrupted(str(photos), out, ["contrast"], [1], 0, 32)
    with pytest.raises(ConvNextError, match=r"made otherwise: .*'seed': 0.* there, .*'seed': 1.* now"):
        write_corrupted(str(photos), out, ["contrast"], [1], 1, 32)
    with pytest.raises(ConvNextError, match="not empty and was not written by this command"):
        write_corrupted(str(photos), photos, ["contrast"], [1], 0, 32)
    with pytest.raises(ConvNextError, match="is not the released ImageNet-C"):
        released_units("imagenet-c", out)


def test_data_without_paths(tmp_path):
    assert write_corrupted("digits", tmp_path, ["pixelate"], [1], 0, 8) == 359
    found = [path.relative_to(tmp_path / "pixelate" / "1").parts for path in tmp_path.rglob("*.jpg")]
    assert {folder for folder, *_ in found} == {str(digit) for digit in range(10)}
    assert len(found) == 359


def test_groups_of_corruptions():
    names, severities = choose(["c", "fog", "c-bar"], [5, 1, 1])
    assert len(names) == len(set(names)) == 25
    assert severities == (1, 5)
    assert len(choose(["all"], [1])[0]) == 29
    for wrong in ((["c"], []), ([], [1]), (["c"], [0]), (["blur"], [1])):
        with pytest.raises(ConvNextError):
            choose(*wrong)
