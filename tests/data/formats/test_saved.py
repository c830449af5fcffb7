"""Folders of Hugging Face `save_to_disk`: labels of every kind, boxes, splits, and every mistake in them."""

import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from convnext.classification.check import check
from convnext.classification.open import fingerprint, open_dataset, open_for_evaluation, open_parts
from convnext.cli.main import run
from convnext.data.formats import find_format
from convnext.data.formats.saved import read_saved
from convnext.detection.check import check_coco
from convnext.detection.open import open_objects
from convnext.errors import ConvNextError
from convnext.recipes.reading import FOUND, Reading
from saved_datasets import IMAGE, TEXT, labelled, pictures, png, save, save_splits

NAMES = ["cat", "dog"]
FEATURES = {"image": IMAGE, "label": labelled(NAMES)}


def one(root, labels=(0, 1, 0, 1, 1, 0, 1, 0, 0, 1), paths=None, features=FEATURES, first=0, **more):
    """A dataset of ten rows."""
    paths = paths or [f"{i}.png" for i in range(len(labels))]
    kind = pa.string() if isinstance(labels[0], str) else None
    return save(root, {"image": pictures(paths, first), "label": pa.array(labels, kind), **more}, features)


def test_one_label(tmp_path):
    train, val = open_dataset(str(one(tmp_path)), 0.2, 0)
    assert find_format(tmp_path, FOUND).name == "hf"
    assert train.classes == NAMES
    assert len(train) == 8
    assert np.bincount(val.labels).tolist() == [1, 1]
    for part in (train, val):
        for i in range(len(part)):
            number = int(part.name(i)[:-4])
            assert part.source(i) == png(number)
            assert part.labels[i] == (0, 1, 0, 1, 1, 0, 1, 0, 0, 1)[number]
    assert val.image(0).size == (8, 6)
    assert train.state(0) != train.state(1)
    assert open_for_evaluation(str(tmp_path), NAMES[::-1], 0.2, 0).labels.tolist() == (1 - val.labels).tolist()


def test_the_same_images_as_in_a_folder(tmp_path):
    """The same names, order, split and fingerprint as a folder per class: paths of rows are names of files."""
    paths, labels = [f"{NAMES[i % 2]}/{i}.png" for i in range(10)], [i % 2 for i in range(10)]
    for i, path in enumerate(paths):
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(png(i))
    saved = open_dataset(str(one(tmp_path / "saved", labels, paths)), 0.2, 3)
    for mine, other in zip(saved, open_dataset(str(tmp_path / "folder"), 0.2, 3), strict=True):
        assert [mine.name(i) for i in range(len(mine))] == [other.name(i) for i in range(len(other))]
        assert fingerprint(mine) == fingerprint(other)
        np.testing.assert_array_equal(np.asarray(mine.image(0)), np.asarray(other.image(0)))


def test_it_travels_to_a_loader_process(tmp_path):
    train, _ = open_dataset(str(one(tmp_path)), 0.2, 0)
    unread = len(pickle.dumps(train))
    pixels = np.asarray(train.image(3))
    assert len(pickle.dumps(train)) == unread
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(train)).image(3)), pixels)


def test_splits(tmp_path):
    for name, first in (("train", 0), ("validation", 20), ("test", 40)):
        one(tmp_path / name, first=first)
    train, val = open_dataset(str(save_splits(tmp_path, ["train", "test", "validation"])), 0.2, 0)
    assert (len(train), len(val)) == (10, 10)
    assert val.source(0) == png(20)
    assert read_saved(tmp_path, FOUND).notes == ["The splits test are left out."]
    save_splits(tmp_path, ["train", "test"])
    assert open_dataset(str(tmp_path), 0.2, 0)[1].source(0) == png(40)
    save_splits(tmp_path, ["test"])
    assert len(open_for_evaluation(str(tmp_path), NAMES, 0.2, 0)) == 10
    save_splits(tmp_path, ["train"])
    assert [len(part) for part in open_dataset(str(tmp_path), 0.2, 0)] == [8, 2]


def test_a_column_of_splits(tmp_path):
    words = pa.array(["train"] * 6 + ["test", "valid", "test", "train"])
    train, val = open_dataset(str(one(tmp_path, split=words)), 0.2, 0)
    assert (len(train), len(val)) == (7, 1)
    with pytest.raises(ConvNextError, match=r"row 6: 'split' is 'later', and must be train, val or test"):
        read_saved(one(tmp_path, split=pa.array(["train"] * 6 + ["later"] * 4)), FOUND)


@pytest.mark.parametrize(
    ("labels", "feature", "classes"),
    [
        (["b", "a"] * 5, TEXT, ["a", "b"]),
        ([3, 10] * 5, {"dtype": "int64", "_type": "Value"}, ["3", "10"]),
        ([[0], [], [1, 0]] * 3 + [[1]], {"feature": labelled(NAMES), "_type": "List"}, NAMES),
        ([["x", "y"], ["y"]] * 5, {"feature": TEXT, "_type": "Sequence"}, ["x", "y"]),
    ],
)
def test_labels_of_every_kind(tmp_path, labels, feature, classes):
    train, _ = open_dataset(str(one(tmp_path, labels, features={"image": IMAGE, "label": feature})), 0.0, 0)
    assert train.classes == classes
    assert train.multi_label == isinstance(labels[0], list)
    for i in range(len(train)):
        given = labels[int(train.name(i)[:-4])]
        given = given if isinstance(given, list) else [given]
        names = [NAMES[each] if classes is NAMES else str(each) for each in given]
        assert sorted(train.label_names(i)) == sorted(names)


def test_labels_with_a_separator(tmp_path):
    labels = ["a, b", "b", "", "a"]
    one(tmp_path, labels, features={"image": IMAGE, "label": TEXT})
    train, _ = open_dataset(str(tmp_path), 0.0, 0, Reading(separator=","))
    assert train.labels.astype(int).tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]


def test_in_other_formats(tmp_path, capsys):
    """Labels become a table, boxes COCO; the images stay as they are stored."""
    kind = pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category", pa.list_(pa.int64()))])
    objects = pa.array([{"bbox": [[1, 1, 3, 4]], "category": [1]}] * 4, kind)
    feature = {"bbox": TEXT, "category": labelled(NAMES)}
    save(tmp_path / "boxes", {"image": pictures([None] * 4), "objects": objects}, {"image": IMAGE, "objects": feature})
    one(tmp_path / "labels")
    assert run(["data", "convert", str(tmp_path / "labels"), str(tmp_path / "table"), "--to", "csv"]) == 0
    assert run(["data", "convert", str(tmp_path / "boxes"), str(tmp_path / "coco"), "--to", "coco"]) == 0
    assert (tmp_path / "table/images/3.png").read_bytes() == png(3)
    table, saved = (open_dataset(str(tmp_path / name), 0.2, 0)[0] for name in ("table", "labels"))
    assert fingerprint(table) == fingerprint(saved)
    coco = open_objects(str(tmp_path / "coco"), 0.0, 0, FOUND)[0]
    assert coco.name(3) == "row/00000003.png"
    assert coco.file(3).read_bytes() == png(3)
    assert coco.target(3)["boxes"].tolist() == [[1, 1, 4, 5]]


def test_columns_by_name(tmp_path):
    """Two columns of images, and labels as columns of 0 and 1."""
    bits = {"wild": pa.array([1, 0] * 5), "tame": pa.array([False, True] * 5)}
    paths = [None] * 10
    columns = {"left": pictures(paths), "right": pictures(paths, 50), **bits}
    features = {"left": IMAGE, "right": IMAGE} | {name: {"dtype": "int64", "_type": "Value"} for name in bits}
    save(tmp_path, columns, features)
    with pytest.raises(
        ConvNextError, match=r"which column has the images\? Give --read\.file-column, one of: left \(Image\)"
    ):
        read_saved(tmp_path, FOUND)
    with pytest.raises(ConvNextError, match=r"which columns have the labels\? Give --read\.label-columns"):
        read_saved(tmp_path, Reading(file_column="right"))
    with pytest.raises(ConvNextError, match=r"no column 'rigth'\. Did you mean 'right'"):
        read_saved(tmp_path, Reading(file_column="rigth"))
    with pytest.raises(ConvNextError, match=r"row 0: 'left' is \{.*must be 0 or 1"):
        read_saved(tmp_path, Reading(file_column="right", label_columns=("left", "tame")))
    train, _ = open_dataset(str(tmp_path), 0.0, 0, Reading(file_column="right", label_columns=("wild", "tame")))
    assert train.labels.astype(int).tolist() == [[1, 0], [0, 1]] * 5
    assert train.name(7) == "row/00000007"
    assert train.source(7) == png(57)


def test_images_that_are_files(tmp_path):
    """A row may have a path alone, below the folder or the one that is named; no other file is opened."""
    (tmp_path / "more").mkdir()
    for i in range(4):
        (tmp_path / "more" / f"{i}.png").write_bytes(png(i))
    columns = {"image": pictures([f"more/{i}.png" for i in range(4)], stored=False), "label": pa.array([0, 1, 0, 1])}
    train, _ = open_dataset(str(save(tmp_path, columns, FEATURES)), 0.0, 0)
    assert [train.file(i) for i in range(4)] == [tmp_path / f"more/{i}.png" for i in range(4)]
    assert train.image(0).size == (8, 6)
    for path, said in (
        ("/etc/passwd", "row 1: '/etc/passwd' is outside"),
        ("../../x", "is outside"),
        ("", "row 1 has no image"),
    ):
        columns["image"] = pictures(["more/0.png", path, "more/2.png", "more/3.png"], stored=False)
        with pytest.raises(ConvNextError, match=said):
            read_saved(save(tmp_path, columns, FEATURES), FOUND)


@pytest.mark.parametrize("rows", [False, True])
def test_boxes(tmp_path, rows):
    """Lists for each key, and a list of objects; the same boxes as labels of whole images."""
    boxes = [[[0, 1, 4, 3], [2, 2, 3, 3]], [[1, 1, 2, 2]], [], [[0, 0, 8, 6]]]
    labels = [[1, 0], [1], [], [0]]
    inner = {"bbox": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}, "category": labelled(NAMES)}
    if rows:
        objects = [
            [{"bbox": b, "category": c} for b, c in zip(*both, strict=True)] for both in zip(boxes, labels, strict=True)
        ]
        kind = pa.list_(pa.struct([("bbox", pa.list_(pa.float32())), ("category", pa.int64())]))
        feature = {"feature": inner, "_type": "List"}
    else:
        objects = [{"bbox": b, "category": c} for b, c in zip(boxes, labels, strict=True)]
        kind = pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category", pa.list_(pa.int64()))])
        feature = {key: {"feature": each, "_type": "List"} for key, each in inner.items()}
    columns = {"image": pictures([f"{i}.png" for i in range(4)]), "objects": pa.array(objects, kind)}
    save(tmp_path, columns, {"image": IMAGE, "objects": feature})
    train, val = open_objects(str(tmp_path), 0.3, 0, FOUND)
    assert train.classes == NAMES
    whole = open_objects(str(tmp_path), 0.0, 0, FOUND)[0]  # the empty image is left out
    assert [whole.name(i) for i in range(3)] == ["0.png", "1.png", "3.png"]
    assert whole.target(0)["boxes"].tolist() == [[0, 1, 4, 4], [2, 2, 5, 5]]
    assert whole.target(0)["labels"].tolist() == [1, 0]
    assert whole.size(0) == (6, 8)
    assert whole.file(0) is None
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(whole)).image(2)), np.asarray(whole.image(2)))
    assert check_coco(str(tmp_path)).errors == []
    labels_of = open_parts(str(tmp_path), 0.0, 0)[0]
    assert labels_of.multi_label
    assert labels_of.labels.astype(int).tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert len(val)


def test_mistakes_in_boxes(tmp_path):
    feature = {"bbox": TEXT, "category": labelled(NAMES)}
    kind = pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category", pa.list_(pa.int64()))])
    for value, said in (
        (
            {"bbox": [[1, 2, 3]], "category": [0]},
            r"row 1, object 0: 'bbox' is \[1\.0, 2\.0, 3\.0\], and must be x, y, width",
        ),
        ({"bbox": [[1, 2, 3, float("nan")]], "category": [0]}, r"row 1, object 0: 'bbox' is"),
        ({"bbox": [[1, 2, 3, 3]], "category": [2]}, r"row 1, object 0: there is no class 2; the dataset names 0 to 1"),
        ({"bbox": [[1, 2, 3, 3]], "category": [0, 1]}, r"row 1: its objects have 1, 2 values"),
        ({"bbox": [[0.1, 0.2, 0.3, 0.3]], "category": [0]}, r"in pixels, not shares"),
    ):
        objects = pa.array([{"bbox": [], "category": []}, value], kind)
        save(
            tmp_path, {"image": pictures(["a.png", "b.png"]), "objects": objects}, {"image": IMAGE, "objects": feature}
        )
        with pytest.raises(ConvNextError, match=said):
            read_saved(tmp_path, FOUND)
    with pytest.raises(ConvNextError, match=r"read as Hugging Face datasets, which has no boxes"):
        open_objects(str(one(tmp_path / "labels")), 0.2, 0, FOUND)


def spoil(name, text):
    return lambda root: (root / name).write_text(text)


def changed(name, **values):
    def change(root):
        content = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(content | values))

    return change


ARROW = "data-00000-of-00002.arrow"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (spoil("state.json", "{\n]"), r"state\.json, line 2, is not JSON.*save_to_disk"),
        (spoil("state.json", "[]"), r"state\.json is no object"),
        (spoil("dataset_info.json", "{}"), r"dataset_info\.json has no 'features'"),
        (changed("state.json", _data_files=[]), r"state\.json has no list '_data_files'"),
        (changed("state.json", _data_files=[{"filename": "../../etc/passwd"}]), r"'../../etc/passwd' is outside"),
        (changed("state.json", _indices_data_files=[{"filename": "i"}]), r"flatten_indices\(\)\.save_to_disk"),
        (lambda root: (root / ARROW).unlink(), r"Cannot read .*data-00000-of-00002\.arrow as an Arrow file"),
        (spoil(ARROW, ""), r"Cannot read .*arrow as an Arrow file.*Get a fresh copy"),
        (spoil(ARROW, "no arrow" * 50), r"Cannot read .*arrow as an Arrow file"),
        (lambda root: (root / ARROW).write_bytes((root / ARROW).read_bytes()[:900]), r"Cannot read .*arrow as an Arrow"),
        (lambda root: one(root, [0, 1, 5]), r"row 2: there is no class 5; the dataset names 0 to 1"),
        (lambda root: one(root, [0, 1, -1]), r"row 2 has no label \(-1\)"),
        (lambda root: one(root, [0, None, 1]), r"row 1 has no label \(None\)"),
        (lambda root: one(root, [0.5, 1.0]), r"row 0: 0\.5 is no label"),
        (lambda root: one(root, features={"image": IMAGE, "label": labelled(["a", "a"])}), r"class name twice: 'a'"),
        (lambda root: save(root, {"image": pa.array(["a.png"]), "label": pa.array([0])}, FEATURES),
         r"column 'image' is string, and must be encoded images.*cast_column"),
        (lambda root: save_splits(root, []), r"no list 'splits'"),
        (lambda root: save_splits(root, ["../x"]), r"'../x' is outside"),
        (lambda root: save_splits(root, ["train"]), r"There is no file .*state\.json"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, change, said):
    change(one(tmp_path))
    with pytest.raises(ConvNextError, match=said):
        read_saved(tmp_path, FOUND)


def test_splits_that_do_not_belong_together(tmp_path):
    one(tmp_path / "train")
    one(tmp_path / "test", features={"image": IMAGE, "label": labelled(["dog", "cat"])})
    with pytest.raises(ConvNextError, match="different class names"):
        read_saved(save_splits(tmp_path, ["train", "test"]), FOUND)
    one(tmp_path / "a")
    one(tmp_path / "b")
    with pytest.raises(ConvNextError, match=r"has the splits a, b, and none is called train"):
        read_saved(save_splits(tmp_path, ["a", "b"]), FOUND)


def test_an_offset_that_leaves_its_file(tmp_path):
    """What could read another process's memory is refused when the file is opened."""
    path = one(tmp_path) / ARROW
    good = path.read_bytes()
    start = good.index(b"\x89PNG")
    offsets = good.rindex((0).to_bytes(4, "little") + len(png(0)).to_bytes(4, "little"), 0, start)
    path.write_bytes(good[: offsets + 4] + (2**30).to_bytes(4, "little") + good[offsets + 8 :])
    with pytest.raises(ConvNextError, match="as an Arrow file"):
        read_saved(tmp_path, FOUND)


def test_a_picture_that_is_none(tmp_path):
    rows = pa.array([{"bytes": b"junk", "path": "a.png"}, *pictures(["b.png", "c.png"]).to_pylist()])
    report = check(str(save(tmp_path, {"image": rows, "label": pa.array([0, 1, 0])}, FEATURES)), 0.0, 0)
    assert list(report.unreadable_train) == ["a.png"]


class Loaded:
    """A split as the library `datasets` gives it."""

    def __init__(self, folder):
        self.cache_files = [{"filename": str(path)} for path in sorted(folder.glob("*.arrow"))]
        self.features = SimpleNamespace(to_dict=lambda: FEATURES)


def test_a_dataset_of_the_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options["revision"]))
        if names[0] == "nobody/nothing":
            raise FileNotFoundError("no such dataset")
        return {"train": Loaded(tmp_path / "train"), "test": Loaded(tmp_path / "test")}

    library = SimpleNamespace(__version__="4.1.0", load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", library)
    one(tmp_path / "train")
    one(tmp_path / "test", first=30)
    train, val = open_dataset("hf:me/pets:small@v2", 0.2, 0)
    assert asked == [(("me/pets", "small"), "v2")]
    assert (len(train), val.source(0)) == (10, png(30))
    assert train.format == "Hugging Face datasets: me/pets"
    assert open_for_evaluation("hf:me/pets", NAMES, 0.2, 0).source(0) == png(30)
    with pytest.raises(ConvNextError, match=r"datasets cannot load 'nobody/nothing': no such dataset\. Check the name"):
        open_dataset("hf:nobody/nothing", 0.2, 0)
    with pytest.raises(ConvNextError, match=r"names no dataset; it must be hf:OWNER/NAME"):
        open_dataset("hf:", 0.2, 0)
    library.__version__ = "3.6.0"
    with pytest.raises(ConvNextError, match=r"can run code that a dataset brings; version 4"):
        open_dataset("hf:me/pets", 0.2, 0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConvNextError, match=r"needs datasets, which cannot be imported.*--extra hf"):
        open_dataset("hf:me/pets", 0.2, 0)
