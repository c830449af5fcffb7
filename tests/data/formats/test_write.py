"""Datasets written in other formats and read again: the same names, parts, boxes, masks, labels, and the same training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext.classification import convert as module
from convnext.classification.open import fingerprint, open_parts
from convnext.classification.parquet import ParquetDataset
from convnext.cli.main import run
from convnext.data.formats import find_format
from convnext.data.shapes import write_shapes
from convnext.detection.open import open_objects
from convnext.recipes.reading import FOUND
from pictures import SCRATCH, draw_classes

BOXES = ("coco", "yolo", "voc")
LABELS = ("csv", "folder", "parquet")


def convert(source, out, to) -> str:
    assert run(["data", "convert", str(source), str(out), "--to", to]) == 0
    return str(out)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """COCO with masks of one polygon each, without crowds, whose boxes are those around the polygons."""
    folder = tmp_path_factory.mktemp("shapes") / "coco"
    write_shapes(folder, 6, 4, 48)
    for part in ("train", "val"):
        file = folder / "annotations" / f"instances_{part}.json"
        content = json.loads(file.read_text())
        kept = []
        for each in content["annotations"]:
            polygons = each.get("segmentation")
            if each["iscrowd"] or not isinstance(polygons, list) or len(polygons) != 1:
                continue
            xs, ys = polygons[0][::2], polygons[0][1::2]
            kept.append({**each, "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]})
        content["annotations"] = kept
        file.write_text(json.dumps(content))
    return folder


def assert_same_objects(one: str, other: str, masks: bool) -> None:
    for mine, its in zip(*(open_objects(data, 0.25, 0, FOUND) for data in (one, other)), strict=True):
        assert mine.classes == its.classes
        assert [mine.name(i) for i in range(len(mine))] == [its.name(i) for i in range(len(its))]
        assert len(mine)
        for i in range(len(mine)):
            a, b = mine.target(i, masks=masks), its.target(i, masks=masks)
            np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1e-6 * 48)
            assert a["labels"].tolist() == b["labels"].tolist()
            if masks:
                np.testing.assert_array_equal(a["masks"], b["masks"])
            np.testing.assert_array_equal(np.asarray(mine.image(i)), np.asarray(its.image(i)))


@pytest.mark.parametrize("through", BOXES)
def test_boxes_and_masks_come_back(shapes, tmp_path, through):
    there = convert(shapes, tmp_path / through, through)
    assert find_format(tmp_path / through, FOUND).name == through
    assert_same_objects(str(shapes), there, masks=through != "voc")
    back = convert(there, tmp_path / "back", "coco")
    assert_same_objects(str(shapes), back, masks=through != "voc")
    labels = [open_parts(data, 0.25, 0)[0] for data in (str(shapes), there, back)]
    assert len({fingerprint(each) for each in labels}) == 1


def test_what_a_format_cannot_say_is_told(shapes, tmp_path, capsys):
    folder = shutil.copytree(shapes, tmp_path / "coco")
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first, second, third, *_ = content["annotations"]
    first["iscrowd"], second["segmentation"] = 1, second["segmentation"] * 2
    third["bbox"][0] += 1
    file.write_text(json.dumps(content))
    convert(folder, tmp_path / "yolo", "yolo")
    said = capsys.readouterr().out
    for words in ("1 crowds", "1 objects of several polygons", "1 boxes become"):
        assert words in said
    convert(folder, tmp_path / "voc", "voc")
    assert "masks are left out" in capsys.readouterr().out
    assert "<difficult>1</difficult>" in "".join(p.read_text() for p in (tmp_path / "voc/Annotations").glob("*.xml"))


@pytest.fixture(scope="module", params=["whole", "parts"])
def striped(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("striped")
    if request.param == "whole":
        return draw_classes(root / "photos", {"across": 12, "down": 9})
    draw_classes(root / "photos" / "train", {"across": 8, "down": 9})
    draw_classes(root / "photos" / "val", {"across": 4, "down": 3})
    return root / "photos"


@pytest.mark.parametrize("through", LABELS)
def test_labels_come_back(striped, tmp_path, through):
    there = convert(striped, tmp_path / through, through)
    before, after = (open_parts(data, 0.25, 3) for data in (str(striped), there))
    for mine, its in zip(before, after, strict=True):
        assert fingerprint(mine) == fingerprint(its)
        assert len(mine) == len(its) > 0
        for i in range(len(mine)):
            assert mine.name(i) == its.name(i)
            np.testing.assert_array_equal(np.asarray(mine.image(i)), np.asarray(its.image(i)))
    back = convert(there, tmp_path / "back", "folder")
    assert fingerprint(open_parts(back, 0.25, 3)[0]) == fingerprint(before[0])


def test_several_labels_go_into_a_csv_and_nowhere_else(shapes, tmp_path, capsys):
    there = convert(shapes, tmp_path / "csv", "csv")
    for mine, its in zip(*(open_parts(data, 0.25, 0) for data in (str(shapes), there)), strict=True):
        assert fingerprint(mine) == fingerprint(its)
    for to, words in (("folder", "several labels"), ("parquet", "several labels")):
        assert run(["data", "convert", str(shapes), str(tmp_path / to), "--to", to]) == 2
        assert words in capsys.readouterr().err
    assert run(["data", "convert", there, str(tmp_path / "coco"), "--to", "coco"]) == 2
    assert "no boxes" in capsys.readouterr().err
    assert run(["data", "convert", str(shapes), str(shapes), "--to", "coco"]) == 2
    assert "new folder" in capsys.readouterr().err


def test_pixels_in_memory_become_files(tmp_path):
    there = convert("digits", tmp_path / "d", "parquet")
    one, other = (open_parts(data, 0.1, 0) for data in ("digits", there))
    assert [len(part) for part in one] == [len(part) for part in other]
    np.testing.assert_array_equal(np.asarray(one[1].image(5)), np.asarray(other[1].image(5)))


def test_large_parquet_data_becomes_several_files(striped, tmp_path, monkeypatch):
    whole = ParquetDataset([Path(convert(striped, tmp_path / "whole", "parquet")) / "train.parquet"])
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "FILE_BYTES", sum(len(whole.source(i)) for i in range(6)))
    files = sorted(Path(convert(striped, tmp_path / "parts", "parquet")).glob("train*"))
    assert [file.name for file in files] == [f"train-{i:05d}.parquet" for i in range(len(files))]
    assert 2 <= len(files) < len(whole) / 4
    parts = ParquetDataset(files)
    assert fingerprint(parts) == fingerprint(whole)
    assert [parts.source(i) for i in range(len(parts))] == [whole.source(i) for i in range(len(whole))]
    assert parts._groups[:, 2].max() == 4


@pytest.mark.parametrize("to", ["csv", "folder"])
def test_names_of_a_stranger_stay_inside(striped, tmp_path, capsys, to):
    there = convert(striped, tmp_path / "parquet", "parquet")
    file = tmp_path / "parquet" / "train.parquet"
    table = pq.read_table(file)
    names = ["../../escaped.png", *table["file"].to_pylist()[1:]]
    pq.write_table(table.set_column(2, "file", pa.array(names)), file)
    assert run(["data", "convert", there, str(tmp_path / "deep" / "out"), "--to", to]) == 2
    assert "outside" in capsys.readouterr().err
    assert not list(tmp_path.rglob("escaped.png"))
    pq.write_table(table.drop_columns("file"), file)
    assert open_parts(there, 0.0, 0)[0].name(0) == "train.parquet#0"


def losses(data: str, out) -> list[float]:
    options = [*SCRATCH, "--epochs", "1", "--total-batch", "4", "--device-batch", "4", "--runtime.log-every", "1"]
    assert run(["train", "small/scratch", *options, "--data", data, "--out", str(out)]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


@pytest.mark.slow
def test_the_same_first_losses_whatever_the_format(tmp_path, shapes):
    striped = draw_classes(tmp_path / "photos", {"across": 12, "down": 9})
    expected = losses(str(striped), tmp_path / "run")
    assert len(expected) >= 4
    for to in LABELS:
        assert losses(convert(striped, tmp_path / to, to), tmp_path / f"run-{to}") == expected, to
    several = losses(str(shapes), tmp_path / "run-coco")
    for to in ("yolo", "voc", "csv"):
        assert losses(convert(shapes, tmp_path / f"s-{to}", to), tmp_path / f"run-s-{to}") == several, to


@pytest.mark.parametrize("name", ["a/1.png", "a 1.png"])
def test_names_that_voc_cannot_keep_are_refused(shapes, tmp_path, name):
    folder = shutil.copytree(shapes, tmp_path / "coco")
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    before = folder / "train" / content["images"][0]["file_name"]
    (folder / "train" / name).parent.mkdir(exist_ok=True)
    before.rename(folder / "train" / name)
    content["images"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    assert run(["data", "convert", str(folder), str(tmp_path / "voc"), "--to", "voc"]) == 2
    assert_same_objects(str(folder), convert(folder, tmp_path / "yolo", "yolo"), masks=True)
