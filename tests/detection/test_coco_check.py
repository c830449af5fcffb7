"""Every kind of problem, in a folder that has it."""

import json
import shutil
from dataclasses import asdict

import pytest
from PIL import Image

from convnext.classification.check import Range
from convnext.data.shapes import SHAPES, draw_scene, write_shapes
from convnext.detection.check import check_coco
from convnext.errors import ConvNextError

SIZE = 48


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), 12, 8, SIZE)


@pytest.fixture
def folder(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "copy")


def edited(folder, change, part="train"):
    path = folder / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return check_coco(folder)


def test_healthy(shapes):
    calls = []
    report = check_coco(shapes, progress=lambda *call: calls.append(call))
    assert report.errors == report.warnings == []
    assert report.classes == list(SHAPES)
    for part, numbers in ((report.train, range(1, 13)), (report.val, range(13, 21))):
        scenes = [draw_scene(0, number, SIZE) for number in numbers]
        assert part.images == len(scenes)
        assert part.crowds == sum(scene.crowd.sum() for scene in scenes)
        assert part.counts == [sum((s.labels[~s.crowd] == k).sum() for s in scenes) for k in range(3)]
        assert part.objects == sum(part.counts)
    assert report.short_side == Range(36, 36.0, 48)
    assert report.long_side == Range(48, 48.0, 48)
    assert report.modes == {"RGB": 20}
    assert calls == [(12, 20), (20, 20)]
    json.dumps(asdict(report))


def test_threads_change_nothing(shapes):
    assert check_coco(shapes, threads=1) == check_coco(shapes, threads=3)


def test_images_that_cannot_be_used(folder):
    (folder / "train" / "000003.png").unlink()
    (folder / "train" / "000004.png").write_bytes(b"junk")
    Image.new("RGB", (5, 7)).save(folder / "train" / "000005.png")
    report = check_coco(folder)
    assert report.train.missing == ["000003.png"]
    assert list(report.train.unreadable) == ["000003.png", "000004.png"]
    assert "none of JPEG" in report.train.unreadable["000004.png"]
    height, width = draw_scene(0, 5, SIZE).picture.shape[:2]
    assert report.train.other_size == {"000005.png": f"5 x 7 pixels, annotated as {width} x {height}"}
    found = "3 of 12 training images cannot be used (1 missing, 1 unreadable, 1 of another size)"
    assert report.errors == [f"{found}; a training would stop."]
    tolerant = check_coco(folder, max_corrupt_share=0.25)
    assert (tolerant.errors, tolerant.warnings) == ([], [f"{found}; others will replace them."])


def test_images_of_validation_must_all_be_there(folder):
    (folder / "val" / "000020.png").unlink()
    report = check_coco(folder, max_corrupt_share=1)
    assert report.errors == ["1 of 8 validation images cannot be used (1 missing); an evaluation leaves none out."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][3].update(id=1), "1 ids are of more than one of the training images, such as 1"),
        (lambda c: c["annotations"][2].update(image_id=99), "1 training annotations are of an image or a category that"),
        (lambda c: c["annotations"][2].update(category_id=99), "1 training annotations are of an image or a category that"),
        (lambda c: c["annotations"][2].pop("segmentation"), "1 training objects have no usable segmentation, such as 3"),
        (lambda c: c["annotations"][2].update(segmentation=[["x"] * 6]), "1 training objects have no usable"),
        (lambda c: c.update(annotations=[]), "There is no object to train on."),
        (lambda c: c["categories"][2].update(name="star"), "do not have the same categories: star, triangle."),
    ],
)  # fmt: skip
def test_errors(folder, change, message):
    assert message in " ".join(edited(folder, change).errors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0]["bbox"].__setitem__(2, 0), "1 training annotations cover less than a pixel; they are"),
        (lambda c: c["annotations"][0].update(area=0), "1 training annotations cover less than a pixel"),
        (lambda c: c["annotations"][0]["bbox"].__setitem__(0, -9), "1 training boxes leave their image; they are clipped"),
        (lambda c: c["annotations"][1].update(id=1), "1 ids are of more than one of the training annotations, such as 1"),
        (lambda c: c["images"].append(c["images"][0] | {"id": 99}), "1 training images are listed more than once"),
        (lambda c: c["images"].append(c["images"][0] | {"id": 99}), "1 training images have no object; they are left out"),
        (lambda c: c["categories"].append({"id": 9, "name": "star"}), "No training objects of 1 classes: star."),
    ],
)  # fmt: skip
def test_warnings(folder, change, message):
    assert message in " ".join(edited(folder, change).warnings)


def test_corners_in_place_of_sides_are_noticed(folder):
    def corners(content):
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x, y, x + w, y + h]

    report = edited(folder, corners, "val")
    assert not report.train.unlike_masks
    assert len(report.val.unlike_masks) > report.val.objects / 2
    assert any("boxes are not where their masks are; a box is x, y, width, height" in text for text in report.warnings)


def test_the_same_image_on_both_sides(folder):
    shutil.copy(folder / "train" / "000002.png", folder / "val" / "000014.png")
    height, width = draw_scene(0, 2, SIZE).picture.shape[:2]
    report = edited(folder, lambda c: c["images"][1].update(height=height, width=width), "val")
    assert report.leaked == ["000014.png"]
    assert "1 validation images are in the training part, too: 000014.png." in report.warnings


def test_one_part_alone(folder):
    (folder / "annotations" / "instances_train.json").unlink()
    report = check_coco(folder)
    assert report.train is None
    assert report.val.images == 8
    assert report.errors == []


def test_what_cannot_be_opened_at_all(folder, tmp_path):
    with pytest.raises(ConvNextError, match="no annotations in COCO's format"):
        check_coco(tmp_path)
    with pytest.raises(ConvNextError, match="no list 'images'"):
        edited(folder, lambda content: content.pop("images"))
