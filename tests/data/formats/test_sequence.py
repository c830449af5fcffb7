"""Python sequences of (image, target): the same names, split and fingerprint as files; every wrong item, by its position."""

import gc
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convnext
from convnext.classification.open import fingerprint, open_dataset, open_for_evaluation
from convnext.data.formats.sequence import hold
from convnext.data.readable import check_readable
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.detection.open import open_objects, open_objects_for_evaluation
from convnext.errors import ConvNextError
from convnext.recipes.reading import FOUND, Reading
from convnext.segmentation.masks import open_masks
from convnext.segmentation.sequence import SequenceMasks, open_sequence
from pictures import draw_classes

TINY = {
    "model": {
        "name": "roadmap_resnet50_separate-downsampling",
        "width_mult": 0.125,
        "depth_mult": 0.34,
        "stem_stride": 1,
    },
    "image_size": 16,
    "total_batch": 32,
    "runtime": {"workers": 0, "device": "cpu"},
    "quiet": True,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("photos"), {"across": 40, "down": 40})


def paths(root: Path) -> list[tuple[Path, str]]:
    return [(path, path.parent.name) for path in sorted(root.glob("*/*.png"))]


def pixels(root: Path) -> list[tuple[np.ndarray, str]]:
    return [(np.asarray(Image.open(path)), name) for path, name in paths(root)]


def test_paths_are_the_folder_to_the_bit(photos):
    """In any order: the same names, order, split and fingerprint."""
    data = hold(paths(photos)[::-1])
    for mine, other in zip(open_dataset(data.key, 0.2, 3), open_dataset(str(photos), 0.2, 3), strict=True):
        assert [mine.name(i) for i in range(len(mine))] == [other.name(i) for i in range(len(other))]
        assert fingerprint(mine) == fingerprint(other)
        assert mine.file(0) == other.file(0)


def test_images_of_every_kind(photos):
    """Arrays, PIL images and tensors of the same pixels are the same image, with the same name and place in the split."""
    arrays = pixels(photos)
    kinds = {
        "array": arrays,
        "pil": [(Image.fromarray(image), name) for image, name in arrays],
        "tensor": [(torch.from_numpy(image.copy()).permute(2, 0, 1), name) for image, name in arrays],
    }
    held = {kind: hold(items) for kind, items in kinds.items()}
    assert len({each.key for each in held.values()}) == 1
    train, val = open_dataset(held["array"].key, 0.2, 0)
    assert len(train) == 64
    assert train.classes == ["across", "down"]
    by_name = {name: (image, label) for name, (image, label) in zip(held["array"].names, arrays, strict=True)}
    for i in range(len(val)):
        image, label = by_name[val.name(i)]
        np.testing.assert_array_equal(np.asarray(val.image(i)), image)
        assert val.label_names(i) == [label]
        assert val.state(i) == (int(val.name(i), 16),)
    assert check_readable(train) is None
    files = hold([(path.read_bytes(), name) for path, name in paths(photos)])
    other = open_dataset(files.key, 0.2, 0)[0]
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(other)).image(5)), np.asarray(other.image(5)))


def test_an_image_keeps_its_side_when_others_come(photos):
    items = pixels(photos)
    few, many = hold(items[:20] + items[40:60]), hold([*items[20:40], *items])
    parts = [open_dataset(each.key, 0.2, 0)[1] for each in (few, many)]
    small, large = ({part.name(i) for i in range(len(part))} for part in parts)
    assert len(small & large) >= len(small) // 2
    assert sum("-2" in name for name in many.names) == 20


def test_labels_of_every_kind():
    images = [np.full((4, 4, 3), i, dtype=np.uint8) for i in range(6)]
    several = hold([(image, ["sofa", "cat"] if i % 2 else []) for i, image in enumerate(images)])
    train, _ = open_dataset(several.key, 0.0, 0)
    assert train.multi_label
    assert train.classes == ["cat", "sofa"]
    assert train.counts().tolist() == [3, 3]
    numbers = hold([(image, np.int64(i % 2) if i else torch.tensor(0)) for i, image in enumerate(images)])
    assert open_dataset(numbers.key, 0.0, 0)[0].classes == ["0", "1"]
    named = hold(convnext.Labelled([(image, i % 2) for i, image in enumerate(images)], classes=["cat", "dog", "owl"]))
    assert open_dataset(named.key, 0.0, 0)[0].classes == ["cat", "dog", "owl"]
    # numbers count in the model's classes, though the data has the first alone
    assert open_for_evaluation(numbers.key, ["x", "y", "z"], 0.0, 0).classes == ["x", "y", "z"]
    assert len(open_for_evaluation(numbers.key, ["x", "y"], 0.5, 0)) == 6  # all of them
    with pytest.raises(ConvNextError, match=r"Item 1 of the data: there is no class 1; the names are of 0 to 0"):
        open_for_evaluation(numbers.key, ["x"], 0.0, 0)
    owl = hold([(images[0], "owl")])
    with pytest.raises(ConvNextError, match="classes that the model does not know, such as 'owl'"):
        open_for_evaluation(owl.key, ["cat", "dog"], 0.0, 0)


GOOD = np.zeros((4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], r"is empty. Give it items: an item is \(image, target\)"),
        (3, r"type int is not read; give a list: an item is"),
        ({"a.png": "cat"}, r"type dict is not read"),
        ([(GOOD, "a"), GOOD], r"Item 1 of the data is ndarray; an item is \(image, target\)"),
        ([(GOOD, "a"), (GOOD, "b", 3)], r"Item 1 of the data is a tuple of length 3"),
        ([(GOOD, "a"), ("no.png", "b")], r"Item 1 of the data: there is no file 'no\.png'"),
        ([(GOOD, "a"), (b"junk", "b")], r"Item 1 of the data: .*its content is none of JPEG"),
        ([(GOOD, "a"), (GOOD.astype(float), "b")], r"Item 1 of the data: An array of shape \(4, 4, 3\) and type float64"),
        ([(GOOD, "a"), (GOOD[None], "b")], r"Item 1 of the data: An array of shape \(1, 4, 4, 3\)"),
        ([(GOOD, "a"), (None, "b")], r"Item 1 of the data: A NoneType is no image"),
        ([(GOOD, "a"), (GOOD, 0.5)], r"Item 1 of the data: 0\.5 is no label; it must be a class name"),
        ([(GOOD, "a"), (GOOD, -1)], r"Item 1 of the data: -1 is no label"),
        ([(GOOD, "a"), (GOOD, True)], r"Item 1 of the data: True is no label"),
        ([(GOOD, "a"), (GOOD, "")], r"Item 1 of the data: '' is no label"),
        ([(GOOD, "a"), (GOOD, GOOD)], r"Item 1 of the data: an array of shape \(4, 4, 3\) is no label"),
        ([(GOOD, "a"), (GOOD, 1)], r"Item 1 of the data has the label 1, and item 0 'a': give names, or numbers, to all"),
        ([(GOOD, 10**9)], r"the label 1000000000; numbers count classes from 0"),
        ([(GOOD, []), (GOOD, [])], r"Give each its class"),
        ([(GOOD, {"boxes": [[0, 0, 1, 1]]})], r'Item 0 of the data: a target with objects is \{"boxes"'),
        ([(GOOD, {"boxes": [[0, 0, 1]], "labels": ["a"]})], r"Item 0 of the data: its boxes must be 1 times x1, y1, x2, y2"),
        ([(GOOD, {"boxes": [[3, 0, 1, 1]], "labels": ["a"]})], r"its boxes must be 1 times"),
        ([(GOOD, {"boxes": [[0, 0, 1, 1]], "labels": ["a"], "masks": GOOD[None, 1:, 1:, 0]})], r"masks have the shape \(1, 3, 3\)"),
    ],
)  # fmt: skip
def test_wrong_items(items, said):
    with pytest.raises(ConvNextError, match=said):
        opened(items)


def opened(items):
    data = hold(items)
    return open_dataset(data.key, 0.0, 0)


def test_wrong_classes():
    with pytest.raises(ConvNextError, match="rename one"):
        convnext.Labelled([(GOOD, 0)], classes=["a", "a"])
    data = hold(convnext.Labelled([(GOOD, "catt")], classes=["cat", "dog"]))
    with pytest.raises(ConvNextError, match=r"Item 0 of the data: there is no class 'catt'\. Did you mean 'cat'"):
        open_dataset(data.key, 0.0, 0)


def test_a_sequence_that_nobody_holds():
    key = hold([(GOOD, "a"), (GOOD, "b")]).key
    gc.collect()
    with pytest.raises(
        ConvNextError, match=r"was a Python sequence, which is not here any more\. Give labelled images"
    ):
        open_dataset(key, 0.0, 0)


def test_train_evaluate_and_continue(photos, tmp_path):
    items = pixels(photos)
    run = convnext.train("small/scratch", data=items, out=tmp_path / "run", epochs=1, **TINY)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"].startswith("sequence:")
    model = run.load()
    held_out = model.evaluate(workers=0)
    assert held_out.images == 8
    assert "held out" in held_out.data
    again = convnext.load(tmp_path / "run").evaluate(list(items), workers=0)  # the same content is the model's own data
    assert (again.images, again.metrics) == (held_out.images, held_out.metrics)
    assert convnext.load(tmp_path / "run").evaluate(items[:30], workers=0).images == 30  # other data: all of it
    assert convnext.train("small/scratch", data=items, out=tmp_path / "run", epochs=1, **TINY).best == run.best


@pytest.mark.slow
def test_a_validation_part_that_is_a_sequence_too(photos, tmp_path):
    items = pixels(photos)
    run = convnext.train("small/scratch", data=items[:60], val=items[60:], out=tmp_path / "run", epochs=1, **TINY)
    assert run.load().evaluate().images == 20
    assert run.load().evaluate(photos).images == 80


def boxes_of(images) -> list:
    """Items with the images and targets of a detection dataset."""
    items = []
    for i in range(len(images)):
        target = images.target(i)
        labels = [images.classes[k] for k in target["labels"]]
        items.append((images.file(i), {"boxes": target["boxes"], "labels": labels, "masks": target["masks"]}))
    return items


def test_boxes_and_masks(tmp_path):
    write_shapes(tmp_path, images=6, val_images=1, size=48)
    whole = open_objects(str(tmp_path), 0.0, 0, FOUND)[0]
    items = boxes_of(whole)
    data = hold(items)
    mine = open_objects(data.key, 0.0, 0, FOUND)[0]
    assert mine.classes == whole.classes
    assert [mine.name(i) for i in range(len(mine))] == [whole.name(i) for i in range(len(whole))]
    for i in range(len(mine)):
        one, other = mine.target(i), whole.target(i)
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=1e-5)
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_array_equal(one["masks"], other["masks"])
    memory = hold([(np.asarray(whole.image(i)), items[i][1]) for i in range(len(items))])
    arrays = open_objects(memory.key, 0.0, 0, FOUND)[0]
    assert arrays.file(0) is None
    assert arrays.size(0) == arrays.image(0).size[::-1]
    assert check_readable(arrays) is None
    assert len(open_objects(memory.key, 0.4, 0, FOUND)[1]) == 2
    few = hold([(image, {**target, "labels": ["circle"] * len(target["labels"])}) for image, target in items])
    assert open_objects_for_evaluation(few.key, whole.classes, FOUND).classes == whole.classes
    assert open_objects_for_evaluation(str(tmp_path), whole.classes, FOUND) is None


def test_label_maps(tmp_path):
    write_shapes_semantic(tmp_path, images=6, val_images=1, size=48)
    train, _ = open_masks(tmp_path, 0.2, 0, True)
    items = [(train.sources(i)[0], train.target(i)) for i in range(len(train))]
    data = hold(convnext.Labelled(items, classes=train.classes))
    mine, val = open_sequence(data.key, 0.2, 0)
    assert (len(mine), len(val), mine.classes) == (5, 1, train.classes)
    targets = {item[0].name: item[1] for item in items}
    for i in range(len(mine)):
        assert mine.image(i).size == mine.target(i).shape[::-1]
        np.testing.assert_array_equal(mine.target(i), targets[mine.file(i).name])
    assert check_readable(mine) is None
    assert mine.fingerprint() == open_sequence(data.key, 0.2, 0)[0].fingerprint() != val.fingerprint()
    stored = hold(convnext.Labelled([train.sources(i) for i in range(2)], classes=["nothing", *train.classes]))
    labels = SequenceMasks(stored).target(0)
    assert 0 < labels[labels < 255].max() <= len(train.classes)
    numbers = hold([(np.asarray(Image.open(items[0][0])), items[0][1])])
    assert SequenceMasks(numbers).classes == [str(k) for k in range(int(items[0][1][items[0][1] < 255].max()) + 1)]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            np.zeros((4, 4), dtype=float),
            r"Item 1 of the data: an array of shape \(4, 4\) and type float64 is no label map",
        ),
        (np.zeros((4, 4, 3), dtype=int), r"Item 1 of the data: an array of shape \(4, 4, 3\)"),
        (np.full((4, 4), 256), r"Item 1 of the data: its labels go from 256 to 256"),
        (np.full((4, 4), 7), r"Item 1 of the data: its labels have the value 7; the classes are 0 to 1"),
        (Image.new("RGB", (4, 4)), r"Item 1 of the data: labels are one number a pixel, and the mode is RGB"),
        ("no.png", r"Item 1 of the data: .*there is no such file"),
        ("cat", r"Item 1 of the data: .*there is no such file"),
    ],
)
def test_wrong_label_maps(target, said):
    data = hold(convnext.Labelled([(GOOD, np.zeros((4, 4), int)), (GOOD, target)], classes=["a", "b"]))
    with pytest.raises(ConvNextError, match=said):
        SequenceMasks(data)


def test_a_label_map_of_another_size():
    data = hold(convnext.Labelled([(GOOD, np.zeros((4, 5), int))], classes=["a", "b"]))
    assert "Item 0 of the data" in str(check_readable(SequenceMasks(data)))


def test_reading_options_do_not_matter(photos):
    data = hold(paths(photos))
    assert len(open_dataset(data.key, 0.2, 0, Reading(format="table"))[0]) == 64


@pytest.mark.slow
def test_a_detector_and_a_segmenter_learn_from_sequences(tmp_path):
    """From memory alone: train, evaluate the held-out part, predict."""
    write_shapes(tmp_path / "boxes", images=8, val_images=1, size=96)
    whole = open_objects(str(tmp_path / "boxes"), 0.0, 0, FOUND)[0]
    items = [(np.asarray(whole.image(i)), target) for i, (_, target) in enumerate(boxes_of(whole))]
    common = {"total_batch": 4, "device_batch": 2, "runtime": {"workers": 0, "device": "cpu"}, "quiet": True}
    run = convnext.train(
        "small/detect", data=items, out=tmp_path / "detector", epochs=2, eval_every=2, val_share=0.25,
        optim={"warmup_steps": 1, "milestones": (1,)},
        model={"name": "mask_rcnn_convnext_atto", "weights": None, "drop_path_rate": 0.1},
        augment={"short_sides": (64,), "random_crop": False}, test_short=64, test_long=96, rpn_samples=32, roi_samples=16,
        **common,
    )  # fmt: skip
    assert run.load().evaluate().images == 2
    assert run.load().evaluate(items[:3]).images == 3
    write_shapes_semantic(tmp_path / "maps", images=8, val_images=1, size=96)
    masks, _ = open_masks(tmp_path / "maps", 0.2, 0, True)
    labelled = convnext.Labelled(
        [(np.asarray(masks.image(i)), masks.target(i)) for i in range(len(masks))], masks.classes
    )
    run = convnext.train(
        "small/segment", data=labelled, out=tmp_path / "segmenter", steps=2, eval_every=2, val_share=0.25,
        optim={"warmup_steps": 1},
        model={"name": "upernet_convnext_atto", "weights": None, "channels": 32, "auxiliary_channels": 16},
        augment={"short": 64, "long": 256, "crop": 64}, **common,
    )  # fmt: skip
    assert run.load().evaluate().images == 2
    assert run.load().evaluate(labelled).images == 2
