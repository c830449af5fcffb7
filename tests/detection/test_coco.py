"""Boxes and masks against drawn shapes, layouts, what is left out, and an error for everything that people get wrong."""

import json
import pickle
import pickletools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as tools

from convnext.data.formats.coco import is_coco
from convnext.data.formats.coco_file import CocoFile
from convnext.data.images import ImageError
from convnext.data.shapes import (
    CATEGORY_IDS,
    SHAPES,
    box,
    draw_scene,
    outline,
    run_lengths,
    write_shapes,
)
from convnext.detection.coco import CocoImages, open_coco, open_coco_split
from convnext.errors import ConvNextError
from convnext.extras import require

COCO_MINI = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
TRAIN, VAL, SIZE = 12, 4, 64
DECODE_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), TRAIN, VAL, SIZE)


@pytest.fixture
def copy(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "copy")


def small(tmp_path, annotations, height=40, width=60, **changes) -> Path:
    """One grey image with these annotations, as one file beside it."""
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": 10 + k, "image_id": 5, "category_id": 2, "iscrowd": 0, "area": 1.0} | entry
            for k, entry in enumerate(annotations)
        ],
    } | changes
    Image.new("RGB", (width, height), "grey").save(tmp_path / "a.png")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


def whole(folder: Path) -> CocoImages:
    return CocoImages(CocoFile.read(folder / "annotations.json"), folder)


def square(x=10, y=5, w=20, h=30):
    return {"bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "area": w * h}


def test_what_was_drawn_is_what_is_read(shapes):
    kinds = set()
    for part in open_coco(shapes):
        assert part.classes == list(SHAPES)
        assert part.category_ids.tolist() == list(CATEGORY_IDS)
        for i in range(len(part)):
            scene, target = draw_scene(0, int(part.image_ids[i]), SIZE), part.target(i)
            assert np.array_equal(np.asarray(part.image(i)), scene.picture)
            assert part.size(i) == scene.picture.shape[:2]
            assert part.aspect_groups()[i] == scene.picture.shape[1] / scene.picture.shape[0]
            assert np.array_equal(target["masks"], scene.masks[~scene.crowd])
            assert target["labels"].tolist() == scene.labels[~scene.crowd].tolist()
            x, y, w, h = np.array([box(mask) for mask in scene.masks]).T
            corners = np.stack([x, y, x + w, y + h], axis=1)
            assert np.array_equal(target["boxes"], corners[~scene.crowd])
            assert np.array_equal(target["ignore"], corners[scene.crowd])
            assert "masks" not in part.target(i, masks=False)
            assert [(k, v.dtype) for k, v in target.items()] == [
                ("boxes", np.float32), ("labels", np.int64), ("ignore", np.float32), ("masks", bool)
            ]  # fmt: skip
            kinds |= {
                (outline(mask) is not None, bool(crowd)) for mask, crowd in zip(scene.masks, scene.crowd, strict=True)
            }
    assert kinds == {(True, False), (False, False), (False, True)}  # polygons, run lengths and crowds were all there


def test_counts_leave_crowds_out(shapes):
    train, _ = open_coco(shapes)
    assert train.counts().sum() == sum(len(train.target(i, masks=False)["boxes"]) for i in range(len(train)))
    assert train.counts().min() > 0


@pytest.mark.parametrize("density", [0, 0.001, 0.4, 1])
@pytest.mark.parametrize("block", [1, 20])
def test_run_lengths(tmp_path, density, block):
    """Both kinds, short and long, of all and nothing."""
    mask = np.kron(np.random.default_rng(0).random((40, 30)) < density, np.ones((block, block))) > 0
    code = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    code["counts"] = code["counts"].decode()
    entries = [square() | {"segmentation": rle} for rle in (code, run_lengths(mask))]
    assert (whole(small(tmp_path, entries, *mask.shape)).target(0)["masks"] == mask).all()


def test_polygons_of_less_than_three_corners_cover_nothing(tmp_path):
    """pycocotools would take four numbers for a box."""
    entries = [
        square() | {"segmentation": polygons} for polygons in ([[1, 1, 9, 9]], [[1, 1, 9, 9], [0, 0, 8, 0, 8, 8, 0, 8]])
    ]
    masks = whole(small(tmp_path, entries)).target(0)["masks"]
    assert masks.sum(axis=(1, 2)).tolist() == [0, 64]


def test_boxes_are_clipped_and_what_is_nothing_is_left_out(tmp_path):
    entries = [
        square(-10, -5, 30, 20),
        square(50, 30, 30, 30),
        square(5, 5, 0.9, 20),
        square(5, 5, 20, 0),
        square(60, 5, 10, 10),  # beside the image
        square(59.5, 5, 10, 10),  # half a pixel of it inside
        square() | {"area": 0},
        square(1, 2, 3, 4) | {"iscrowd": 1, "category_id": 9},
    ]
    data = whole(small(tmp_path, entries))
    target = data.target(0)
    assert target["boxes"].tolist() == [[0, 0, 20, 15], [50, 30, 60, 40]]
    assert target["masks"].shape == (2, 40, 60)
    assert target["ignore"].tolist() == [[1, 2, 4, 6]]
    assert len(data.ground_truth()["annotations"]) == 8  # for an evaluator nothing is left out


def test_area_crowd_and_ids_may_be_missing(tmp_path):
    entry = {key: square()[key] for key in ("bbox", "segmentation")} | {"area": None, "iscrowd": None, "id": None}
    truth = whole(small(tmp_path, [entry, entry])).ground_truth()["annotations"]
    assert [(a["id"], a["area"], a["iscrowd"]) for a in truth] == [(1, 600, 0), (2, 600, 0)]


def test_objects_without_segmentation(tmp_path):
    data = whole(small(tmp_path, [square(), square() | {"segmentation": []}]))
    assert not data.has_masks
    assert len(data.target(0, masks=False)["boxes"]) == 2
    with pytest.raises(ImageError, match=r"annotation 11 in .*annotations\.json .*it has none.*every object needs"):
        data.target(0)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [60, 40], "counts": [2400]}, r"are of \(height, width\) \[60, 40\]"),
        ({"size": [40, 60], "counts": [2399]}, "do not add up"),
        ({"size": [40, 60], "counts": [3000, -600]}, "do not add up"),
        ({"size": [40, 60], "counts": ""}, "are damaged"),
        ({"size": [40, 60], "counts": "zzz~~~"}, "are damaged"),
        ({"size": [40, 60], "counts": "00"}, "do not add up"),
        ({"size": [40, 60], "counts": "ooooooooooooooooooooo0"}, "do not add up"),
        ({"size": [40, 60]}, "counts"),
        ([["a", "b", "c", "d", "e", "f"]], ""),
        ([1, 2, 3, 4, 5, 6], ""),
        ([[1, 2, float("nan"), 4, 5, 6]], "not a finite number"),
        ("mask", ""),
    ],
)
def test_damaged_segmentations(tmp_path, segmentation, reason):
    data = whole(small(tmp_path, [square() | {"segmentation": segmentation}]))
    with pytest.raises(ImageError, match=f"annotation 10 in .*cannot be used: .*{reason}"):
        data.target(0)


# -- layouts


def test_coco_layout(shapes):
    train, val = open_coco(shapes)
    assert (len(train), len(val)) == (TRAIN, VAL)
    assert train.name(0) == "000001.png"
    assert is_coco(shapes)


def rename_to(layout: str, folder: Path) -> None:
    annotations = folder / "annotations"
    if layout == "split2017":
        for part in ("train", "val"):
            (folder / part).rename(folder / f"{part}2017")
            (annotations / f"instances_{part}.json").rename(annotations / f"instances_{part}2017.json")
    if layout == "images":
        (folder / "images").mkdir()
        for part in ("train", "val"):
            (folder / part).rename(folder / "images" / part)
    if layout == "beside":
        (annotations / "instances_train.json").rename(folder / "train" / "_annotations.coco.json")
        (annotations / "instances_val.json").rename(folder / "val" / "_annotations.coco.json")
        (folder / "val").rename(folder / "valid")
    if layout == "prefixed":  # file names that begin with the folder
        for part in ("train", "val"):
            path = annotations / f"instances_{part}.json"
            path.write_text(path.read_text().replace('"file_name": "', f'"file_name": "{part}/'))


@pytest.mark.parametrize("layout", ["split2017", "images", "beside", "prefixed"])
def test_other_layouts(shapes, copy, layout):
    rename_to(layout, copy)
    assert is_coco(copy)
    for one, other in zip(open_coco(shapes), open_coco(copy), strict=True):
        assert len(one) == len(other)
        assert np.array_equal(np.asarray(one.image(3)), np.asarray(other.image(3)))
        assert np.array_equal(one.target(3)["masks"], other.target(3)["masks"])


@pytest.mark.parametrize("place", ["annotations.json", "annotations/instances.json", "_annotations.coco.json"])
def test_one_file_is_split(copy, place):
    (copy / "annotations" / "instances_val.json").unlink()
    (copy / "annotations" / "instances_train.json").rename(copy / place)
    (copy / "train").rename(copy / "images")
    train, val = open_coco(copy, 0.25, seed=3)
    names = [[part.name(i) for i in range(len(part))] for part in (train, val)]
    assert (len(train), len(val)) == (9, 3)
    assert sorted(names[0] + names[1]) == [f"{i:06}.png" for i in range(1, TRAIN + 1)]
    assert np.array_equal(np.asarray(val.image(1)), draw_scene(0, int(val.image_ids[1]), SIZE).picture)
    assert np.array_equal(open_coco_split(copy, "val", 0.25, seed=3).image_ids, val.image_ids)
    assert open_coco(copy, 0.25, seed=4)[1].image_ids.tolist() != val.image_ids.tolist()
    shuffled = json.loads((copy / place).read_text())
    shuffled["images"].reverse()
    (copy / place).write_text(json.dumps(shuffled))
    assert sorted(open_coco(copy, 0.25, seed=3)[1].image_ids) == sorted(val.image_ids)


def test_a_split_alone(copy):
    (copy / "annotations" / "instances_train.json").unlink()
    assert len(open_coco_split(copy, "val")) == VAL
    for opened in (lambda: open_coco(copy), lambda: open_coco_split(copy, "train")):
        with pytest.raises(ConvNextError, match="validation part alone"):
            opened()


def test_training_needs_objects_and_validation_does_not(copy):
    for part in ("train", "val"):
        path = copy / "annotations" / f"instances_{part}.json"
        content = json.loads(path.read_text())
        gone = {image["id"] for image in content["images"][:2]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in gone]
        path.write_text(json.dumps(content))
    train, val = open_coco(copy)
    assert (len(train), len(val)) == (TRAIN - 2, VAL)
    assert train.name(0) == "000003.png"
    assert {key: value.shape for key, value in val.target(0).items()} == {
        "boxes": (0, 4), "labels": (0,), "ignore": (0, 4), "masks": (0, *val.size(0))
    }  # fmt: skip
    edited(copy, lambda content: content.update(annotations=[]))
    with pytest.raises(ConvNextError, match="no image with an object"):
        open_coco(copy)


@pytest.mark.parametrize("path", [".", "train"])
def test_other_folders_are_not_coco(shapes, tmp_path, path):
    assert not is_coco(tmp_path if path == "." else shapes / path)
    assert not is_coco(tmp_path / "missing")


# -- travel


def test_memory_is_buffers_not_objects(tmp_path):
    """Ten times the annotations are more bytes but not one more object, so loader processes share them."""
    sizes = []
    for count in (100, 1000):
        data = whole(small(tmp_path, [square() for _ in range(count)]))
        stream = pickle.dumps(data)
        sizes.append((sum(1 for _ in pickletools.genops(stream)), len(stream)))
    assert abs(sizes[0][0] - sizes[1][0]) < 10  # longer streams have more frames
    assert sizes[1][1] < 200 * 1000
    assert np.array_equal(pickle.loads(stream).target(0)["masks"], data.target(0)["masks"])


def test_subset(shapes):
    train, _ = open_coco(shapes)
    part = train.subset([7, 2]).subset([1, 0, 0])
    assert [part.name(i) for i in range(3)] == [train.name(i) for i in (2, 7, 7)]
    assert np.array_equal(part.target(1)["boxes"], train.target(7)["boxes"])
    truth = train.subset([7, 2]).ground_truth()
    assert [image["id"] for image in truth["images"]] == train.image_ids[[7, 2]].tolist()
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert {a["image_id"] for a in truth["annotations"]} == set(train.image_ids[[7, 2]].tolist())


def test_fingerprint(shapes, copy):
    train, val = open_coco(shapes)
    prints = {train.fingerprint(), val.fingerprint(), train.subset([0, 1]).fingerprint()}
    assert len(prints) == 3
    assert open_coco(copy)[0].fingerprint() == train.fingerprint()
    path = copy / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["bbox"][0] += 1
    path.write_text(json.dumps(content))
    assert open_coco(copy)[0].fingerprint() != train.fingerprint()


# -- errors


def edited(folder, change, part="train"):
    path = folder / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "not an annotation file in COCO's format: it has no list 'annotations'"),
        (lambda c: c.update(images={}), "it has no list 'images'"),
        (lambda c: c.update(images=[]), "are of no images"),
        (lambda c: c.update(categories=["cat"]), "it has no list 'categories'"),
        (lambda c: c["images"][2].pop("width"), "'width' of entry 2 in 'images' is None, and must be a number"),
        (lambda c: c["images"][2].update(width=0), r"entry 2 in 'images' is \[\d+, 0\] pixels"),
        (lambda c: c["images"][1].update(file_name=7), "'file_name' of entry 1 in 'images' is 7, and must be a text"),
        (lambda c: c["annotations"][4].pop("bbox"), "'bbox' of entry 4 in 'annotations' is None.*4 numbers"),
        (lambda c: c["annotations"][4].update(bbox=[1, 2, 3]), r"'bbox' of entry 4 .* is \[1, 2, 3\]"),
        (lambda c: c["annotations"][4].update(bbox=[1, 2, float("nan"), 3]), "'bbox' of entry 4"),
        (lambda c: c["annotations"][0].update(image_id="x"), "'image_id' of entry 0 in 'annotations' is 'x'"),
        (lambda c: c["annotations"][0].update(image_id=777), "annotation 1 is of the id 777, which 'images' does not"),
        (lambda c: c["annotations"][0].update(category_id=2), "annotation 1 is of the id 2, which 'categories' does not"),
        (lambda c: c["images"][3].update(id=1), "has the id 1 twice in 'images'"),
        (lambda c: c["categories"][1].update(id=1), "has the id 1 twice in 'categories'"),
        (lambda c: c["categories"][1].update(name="oval"), "category 3 is 'oval' in .*'rectangle' in .*same categories"),
        (lambda c: c["categories"].append({"id": 8, "name": "star"}), "category 8 is 'star' in .*'missing' in"),
    ],
)  # fmt: skip
def test_damaged_annotations(copy, change, message):
    with pytest.raises(ConvNextError, match=message):
        open_coco(edited(copy, change))


def test_broken_files_and_folders(copy, tmp_path):
    path = copy / "annotations" / "instances_train.json"
    (copy / "annotations" / "instances_train2014.json").write_bytes(path.read_bytes())
    assert is_coco(copy)
    with pytest.raises(ConvNextError, match="2 files for train: instances_train.json, instances_train2014.json"):
        open_coco(copy)
    (copy / "annotations" / "instances_train2014.json").unlink()
    shutil.rmtree(copy / "train")
    with pytest.raises(ConvNextError, match=r"are not there: looked for '000001.png' in .*train, .*images"):
        open_coco(copy)
    path.write_text(path.read_text()[:1000])
    with pytest.raises(ConvNextError, match="not JSON"):
        open_coco(copy)
    with pytest.raises(ConvNextError, match="no folder .*instances_train"):
        open_coco(tmp_path / "missing")
    with pytest.raises(ConvNextError, match="no annotations in COCO's format.*instances_train"):
        open_coco(tmp_path)


@pytest.mark.parametrize("share", [1, -1])
def test_impossible_shares(tmp_path, share):
    with pytest.raises(ConvNextError, match="validation share"):
        open_coco(small(tmp_path, [square()]), share)
    with pytest.raises(ConvNextError, match="only 1 image"):
        open_coco(tmp_path, 0.5)


def test_an_image_of_another_size_or_none_at_all(copy):
    train, _ = open_coco(copy)
    Image.new("RGB", (30, 20)).save(copy / "train" / "000001.png")
    (copy / "train" / "000002.png").unlink()
    with pytest.raises(ImageError, match=r"000001.png' has 30 x 20 pixels, and .*instances_train.json says"):
        train.image(0)
    with pytest.raises(ImageError, match=r"000002.png'.*no such file"):
        train.image(1)


def test_an_image_annotated_as_it_is_stored_is_not_turned_by_its_orientation(copy):
    file = copy / "annotations" / "instances_val.json"
    values = json.loads(file.read_text())
    values["images"] = values["images"][:1]
    values["annotations"] = []
    values["images"][0] |= {"file_name": "turned.jpg", "width": 40, "height": 20}
    file.write_text(json.dumps(values))
    picture = Image.fromarray(np.full((20, 40, 3), 7, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = copy / "val" / "turned.jpg"
    picture.save(path, exif=exif)
    assert open_coco_split(copy, "val").image(0).size == (40, 20)
    values["images"][0] |= {"width": 20, "height": 40}  # annotated upright
    file.write_text(json.dumps(values))
    assert open_coco_split(copy, "val").image(0).size == (20, 40)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(
        ConvNextError, match="needs pycocotools.*--extra detection|needs pycocotools.*convnext.detection"
    ):
        require("pycocotools.mask", "detection")


@pytest.mark.shared
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs ../shared/data/coco-mini")
@DECODE_WARNS
def test_real_images_as_pycocotools_reads_them():
    from pycocotools.coco import COCO

    train, val = open_coco(COCO_MINI)
    assert (len(train), len(val), len(val.classes)) == (98, 100, 80)
    reference = COCO(str(COCO_MINI / "annotations" / "instances_val2017.json"))
    for i in range(0, len(val), 5):
        entries = reference.loadAnns(reference.getAnnIds(imgIds=[int(val.image_ids[i])], iscrowd=False))
        target = val.target(i)
        assert val.image(i).size == val.size(i)[::-1]
        assert [val.category_ids[label] for label in target["labels"]] == [entry["category_id"] for entry in entries]
        for mask, entry in zip(target["masks"], entries, strict=True):
            assert np.array_equal(mask, reference.annToMask(entry))
