"""Another library's reading of the same files: labelformat's boxes and polygons, and ours."""

import json

import numpy as np
import pytest
from PIL import Image

from convnext.cli.main import run
from convnext.data.formats import find_format
from convnext.recipes.reading import FOUND

pytestmark = pytest.mark.slow

CLASSES = ["circle", "rectangle", "triangle", "star"]
WITHIN = 1e-6
"""Pixels: both calculate in double precision from the same digits."""


@pytest.fixture(scope="module")
def formats():
    return pytest.importorskip("labelformat.formats", reason="labelformat is not installed: uv pip install labelformat")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Forty images of many sizes with 0 to 6 polygons each and the boxes around them, as COCO, YOLO and Pascal VOC."""
    root, generator = tmp_path_factory.mktemp("sets"), np.random.default_rng(7)
    (root / "coco" / "annotations").mkdir(parents=True)
    (root / "coco" / "train").mkdir()
    images, annotations = [], []
    for i in range(40):
        width, height = (int(side) for side in generator.integers(17, 700, 2))
        name = f"{i:03}.png"
        Image.new("RGB", (width, height)).save(root / "coco" / "train" / name)
        images.append({"id": i + 1, "file_name": name, "width": width, "height": height})
        for _ in range(int(generator.integers(0, 7))):
            corners = generator.uniform(0, 1, (int(generator.integers(3, 9)), 2)) * (width, height)
            low, high = corners.min(axis=0), corners.max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(generator.integers(1, 5)),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(np.prod(high - low)),
                    "iscrowd": 0,
                    "segmentation": [corners.ravel().tolist()],
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco" / "annotations" / "instances_train.json").write_text(json.dumps(content))
    for kind in ("yolo", "voc"):
        assert run(["data", "convert", str(root / "coco"), str(root / kind), "--to", kind]) == 0
    boxes = json.loads(json.dumps(content))  # without polygons: lines of five numbers
    for each in boxes["annotations"]:
        del each["segmentation"]
    (root / "boxes" / "annotations").mkdir(parents=True)
    (root / "boxes" / "annotations" / "instances_train.json").write_text(json.dumps(boxes))
    (root / "boxes" / "train").symlink_to(root / "coco" / "train")
    assert run(["data", "convert", str(root / "boxes"), str(root / "yolo-boxes"), "--to", "yolo"]) == 0
    return root


def ours(folder) -> dict[str, list[tuple]]:
    """Class and x1 y1 x2 y2 of every object, by the image's name."""
    content = find_format(folder, FOUND).read(folder, FOUND)
    found = {}
    for item in content.items:
        boxes = [(content.classes[each.label], each.box) for each in item.objects]
        found[item.name] = sorted((name, x, y, x + w, y + h) for name, (x, y, w, h) in boxes)
    return found


def theirs(reader) -> dict[str, list[tuple]]:
    found = {}
    for label in reader.get_labels():
        rows = [
            (each.category.name, each.box.xmin, each.box.ymin, each.box.xmax, each.box.ymax) for each in label.objects
        ]
        found[label.image.filename] = sorted(rows)
    return found


def same(one: dict[str, list[tuple]], other: dict[str, list[tuple]]) -> int:
    """Compare; the number of objects."""
    assert one.keys() == other.keys()
    for name in one:
        assert [row[0] for row in one[name]] == [row[0] for row in other[name]]
        if one[name]:
            np.testing.assert_allclose([r[1:] for r in one[name]], [r[1:] for r in other[name]], rtol=0, atol=WITHIN)
    return sum(map(len, one.values()))


def test_coco(formats, sets):
    file = sets / "coco" / "annotations" / "instances_train.json"
    assert same(ours(sets / "coco"), theirs(formats.COCOObjectDetectionInput(input_file=file))) > 80


def test_yolo_boxes(formats, sets):
    reader = formats.YOLOv8ObjectDetectionInput(input_file=sets / "yolo-boxes" / "data.yaml", input_split="train")
    assert same(ours(sets / "yolo-boxes"), theirs(reader)) > 80


def test_voc(formats, sets):
    reader = formats.PascalVOCObjectDetectionInput(
        input_folder=sets / "voc" / "Annotations", category_names=",".join(CLASSES)
    )
    assert same(ours(sets / "voc"), theirs(reader)) > 80


def polygons(content) -> dict[str, list[tuple]]:
    return {
        item.name: sorted((content.classes[each.label], *each.segmentation[0]) for each in item.objects)
        for item in content.items
    }


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_polygons(formats, sets, kind):
    if kind == "coco":
        file = sets / "coco" / "annotations" / "instances_train.json"
        reader = formats.COCOInstanceSegmentationInput(input_file=file)
    else:
        reader = formats.YOLOv8InstanceSegmentationInput(input_file=sets / "yolo" / "data.yaml", input_split="train")
    content = find_format(sets / kind, FOUND).read(sets / kind, FOUND)
    found = {}
    for label in reader.get_labels():
        rows = [
            (o.category.name, *(value for point in o.segmentation.polygons[0] for value in point))
            for o in label.objects
        ]
        found[label.image.filename] = sorted(rows)
    mine = polygons(content)
    assert mine.keys() == found.keys()
    for name in mine:
        for one, other in zip(mine[name], found[name], strict=True):
            assert one[0] == other[0]
            np.testing.assert_allclose(one[1:], other[1:], rtol=0, atol=WITHIN)


def test_what_it_writes(formats, sets, tmp_path):
    """Its YOLO and Pascal VOC files, which say some things in other words than ours, are read to the same boxes."""
    source = formats.COCOObjectDetectionInput(input_file=sets / "coco" / "annotations" / "instances_train.json")
    # its YOLO keeps the ids of its source, and COCO's are from 1, which YOLO has no place for
    numbered = formats.YOLOv8ObjectDetectionInput(input_file=sets / "yolo-boxes" / "data.yaml", input_split="train")
    formats.YOLOv8ObjectDetectionOutput(output_file=tmp_path / "yolo" / "data.yaml", output_split="train").save(
        label_input=numbered
    )
    (tmp_path / "yolo" / "images").symlink_to(sets / "coco" / "train")
    formats.PascalVOCObjectDetectionOutput(output_folder=tmp_path / "voc" / "Annotations").save(label_input=source)
    (tmp_path / "voc" / "JPEGImages").symlink_to(sets / "coco" / "train")
    expected = ours(sets / "coco")
    assert same(ours(tmp_path / "yolo"), expected) > 80
    assert same(ours(tmp_path / "voc"), expected) > 80
