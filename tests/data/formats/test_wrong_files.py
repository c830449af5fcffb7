"""A wrong file of each kind that is read: one paragraph with the file, the line where there are lines, and what to do."""

import io
import json
import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext.cli.main import run
from convnext.data.formats import FORMATS
from saved_datasets import IMAGE, labelled, pictures, png, save

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
WORDS = BOX.replace(">1<", ">one<")
REMEDIES = (
    "Add",
    "Correct",
    "Get",
    "Give",
    "Leave",
    "Make",
    "Put",
    "Remove",
    "Rename",
    "Save",
    "Write",
    "Decompress",
    "Draw",
)
REMEDY = re.compile(rf"(^|[.:;] )({'|'.join(REMEDIES)})\b")


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def images(root, *names):
    for i, name in enumerate(names):
        put(root / name, png(i))


def folder(root):
    """A folder per class, of which one is empty."""
    images(root, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png")
    (root / "train/owl").mkdir()


def table(text, name="labels.csv"):
    def make(root):
        images(root, "1.png", "2.png")
        put(root / name, text)

    return make


def parquet(root):
    rows = {"image": pictures(["1.png", "2.png"]), "label": pa.array([0, -1])}
    pq.write_table(pa.table(rows), root / "train.parquet")


def shard(*members):
    def make(root):
        with tarfile.open(root / "train-000.tar", "w") as tar:
            for name, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))

    return make


GOOD = [("1.png", png(0)), ("1.cls", b"0"), ("2.png", png(1)), ("2.cls", b"1")]


def shards_with_names(content):
    def make(root):
        shard(*GOOD)(root)
        put(root / "classes.txt", content)

    return make


def coco(change):
    def make(root):
        images(root, "train/1.png")
        content = {
            "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 6}],
            "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        change(content)
        put(root / "annotations/instances_train.json", json.dumps(content))

    return make


def coco_text(root):
    coco(lambda content: None)(root)
    put(root / "annotations/instances_train.json", '{"images": [\n]]')


def yolo(line, config="train: images\nnames: [cat]\n"):
    def make(root):
        images(root, "images/1.png")
        put(root / "labels/1.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
        put(root / "data.yaml", config)

    return make


def voc(text):
    def make(root):
        images(root, "JPEGImages/1.png")
        put(root / "Annotations/1.xml", text)

    return make


def labelme(text):
    def make(root):
        images(root, "1.png")
        put(root / "1.json", text)

    return make


def saved(name, content):
    def make(root):
        features = {"image": IMAGE, "label": labelled(["cat", "dog"])}
        save(root, {"image": pictures(["1.png", "2.png"]), "label": pa.array([0, 1])}, features)
        put(root / name, content)

    return make


def saved_rows(root):
    features = {"image": IMAGE, "label": labelled(["cat", "dog"])}
    save(root, {"image": pictures(["1.png", "2.png"]), "label": pa.array([0, 7])}, features)


def masks(classes, *names):
    def make(root):
        images(root, "images/1.png", "images/2.png", *names)
        put(root / "classes.txt", classes)

    return make


CASES = {
    "folder, an empty class": (folder, r"train/owl"),
    "table, a row too long": (table("file,label\n1.png,a\n2.png,b,c\n"), r"labels\.csv, line 3"),
    "table, no UTF-8": (table(b"file,label\n1.png,caf\xe9\n"), r"labels\.csv, line 2"),
    "table, JSON lines": (table('{"file": "1.png", "label": "a"}\n{"file"\n', "labels.jsonl"), r"labels\.jsonl, line 2"),
    "table, TSV": (table("file\tlabel\n1.png\t\n2.png\tb\n", "labels.tsv"), r"labels\.tsv, line 2"),
    "table, classes": (
        lambda root: (table("file,label\n1.png,a\n2.png,b\n")(root), put(root / "classes.txt", b"a\n\xff\n")),
        r"classes\.txt, line 2",
    ),
    "parquet, none": (lambda root: put(root / "train.parquet", "no parquet"), r"train\.parquet"),
    "parquet, a label": (parquet, r"The labels in "),
    "parquet, classes": (lambda root: (parquet(root), put(root / "classes.txt", b"a\n\xff\n")), r"classes\.txt, line 2"),
    "shards, none": (lambda root: put(root / "train-000.tar", "no tar"), r"train-000\.tar"),
    "shards, compressed": (lambda root: put(root / "train-000.tar", b"\x1f\x8b" + bytes(600)), r"train-000\.tar"),
    "shards, no label": (shard(("1.png", png(0)), ("1.cls", b"cat")), r"1\.cls in .*train-000\.tar"),
    "shards, no image": (shard(("1.cls", b"0")), r"'1' of .*train-000\.tar"),
    "shards, cut short": (
        lambda root: (shard(*GOOD)(root), put(root / "train-000.tar", (root / "train-000.tar").read_bytes()[:700])),
        r"train-000\.tar",
    ),
    "shards, classes": (shards_with_names(b"a\n\xff\n"), r"classes\.txt, line 2"),
    "shards, too few classes": (shards_with_names(b"a\n"), r"classes\.txt"),
    "coco, no JSON": (coco_text, r"instances_train\.json.*line 2"),
    "coco, a box": (coco(lambda c: c["annotations"][0].update(bbox=[1, 2])), r"instances_train\.json: 'bbox' of entry 0"),
    "coco, a size": (coco(lambda c: c["images"][0].update(width=0)), r"instances_train\.json: entry 0"),
    "coco, no list": (coco(lambda c: c.pop("categories")), r"instances_train\.json"),
    "yolo, words": (yolo("cat 0.5 0.5 0.1 0.1"), r"1\.txt, line 2"),
    "yolo, too few": (yolo("0 0.5 0.5"), r"1\.txt, line 2"),
    "yolo, no class": (yolo("4 0.5 0.5 0.1 0.1"), r"1\.txt, line 2"),
    "yolo, half a class": (yolo("0.5 0.5 0.5 0.1 0.1"), r"1\.txt, line 2"),
    "yolo, pixels": (yolo("0 20 30 100 50"), r"1\.txt, line 2"),
    "yolo, data.yaml": (yolo("", "train: images\nnames: [a, [b]\n"), r"data\.yaml, line \d"),
    "voc, no XML": (voc("<annotation>\n<object>\n"), r"1\.xml.*line 3"),
    "voc, a number": (voc(f"<annotation>\n<object><name>a</name>{WORDS}</object></annotation>"), r"1\.xml, line 2"),
    "voc, a document type": (voc('<!DOCTYPE a [<!ENTITY x "y">]>\n<annotation/>'), r"1\.xml, line 1"),
    "voc, another XML": (voc("<html/>"), r"1\.xml, line 1"),
    "labelme, no JSON": (labelme('{"shapes": [\n}'), r"1\.json.*line 2"),
    "labelme, a shape": (labelme('{"shapes": [{"label": "a", "points": [[1, 1]]}]}'), r"1\.json, shape 0"),
    "hf, no JSON": (saved("state.json", "{\n]"), r"state\.json, line 2"),
    "hf, features": (saved("dataset_info.json", "[]"), r"dataset_info\.json"),
    "hf, no Arrow": (saved("data-00000-of-00002.arrow", "no arrow"), r"data-00000-of-00002\.arrow"),
    "hf, a label": (saved_rows, r", row 1"),
    "masks, no list": (masks("", "masks/1.png", "masks/2.png"), r"classes\.txt"),
    "masks, no UTF-8": (masks(b"a\n\xff", "masks/1.png", "masks/2.png"), r"classes\.txt"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file(case, tmp_path, capsys):
    make, place = CASES[case]
    make(tmp_path)
    code = run(["data", "check", str(tmp_path), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    paragraph = " ".join(said.split())
    assert code == 2, said
    assert "Traceback" not in said
    assert re.search(place, paragraph), said
    assert REMEDY.search(paragraph), said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said)


def test_every_format_has_a_wrong_file():
    kinds = {case.partition(",")[0] for case in CASES}
    assert kinds - {"masks"} == {each.name for each in FORMATS}
