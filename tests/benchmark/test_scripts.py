"""Each script of benchmarks/ on a few small images, for a few steps; `tables.py` is in tests/test_structure.py."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from convnext import create_model, recipes
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.ops import onednn_int8
from pictures import draw_classes
from scripts import SCRIPTS, load, run


@pytest.fixture(scope="module")
def coco_mini(tmp_path_factory):
    """Drawn shapes in the layout of coco-mini: boxes and masks of instances, and a label PNG for each photo."""
    folder = tmp_path_factory.mktemp("coco-mini")
    write_shapes(folder, images=6, val_images=1, size=64)
    write_shapes_semantic(folder / "ade", images=6, val_images=1, size=64)
    annotations = json.loads((folder / "annotations/instances_train.json").read_text())
    (folder / "train").rename(folder / "train2017")
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(annotations))
    masks = folder / "semantic/train2017"
    masks.mkdir(parents=True)
    for path in (folder / "ade/annotations/training").iterdir():  # 0 is unlabelled there, 255 here
        Image.fromarray(np.asarray(Image.open(path)) - np.uint8(1)).save(masks / path.name)
    names = (folder / "ade/classes.txt").read_text().splitlines()
    (folder / "semantic/classes.json").write_text(json.dumps(names))
    return folder


def test_embed_speed(tmp_path):
    out = tmp_path / "x.json"
    (row,) = run("embed_speed", out, "--models", "convnext_atto", "--images", "2", "--rounds", "1")["rows"]
    assert row["model"] == "convnext_atto"
    assert 0.2 < row["embed_to_predict"] < 5


def test_digest_cost(tmp_path):
    (row,) = run("digest_cost", tmp_path / "x.json", "--models", "convnext_atto", "--rounds", "1")["rows"]
    assert row["megabytes"] == 15
    assert row["verified_ms"] > 0


@pytest.mark.slow
def test_fourteen_million(tmp_path):
    rows = run("fourteen_million", tmp_path / "x.json", "--sizes", "6400", "--shards", "2", "--workers", "1")["rows"]
    assert rows["6,400"]["images"] == 6400
    assert 0 < rows["6,400"]["worker_own_mb"] < 200


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot be told to forget a file")
def test_shard_order(tmp_path):
    small = ["--shards", "3", "--images", "4", "--rounds", "1", "--folder", str(tmp_path)]
    assert list(run("shard_order", tmp_path / "x.json", *small)["rows"]) == ["sequence", "block", "full"]


@pytest.mark.parametrize(
    ("task", "metric"),
    [("segmentation", "miou"), pytest.param("mask_rcnn", "box_ap", marks=pytest.mark.slow)],
)
def test_overfit(coco_mini, tmp_path, task, metric):
    small = ["--photos", "4", "--short", "64", "--length", "2", "--warmup", "1", "--data", str(coco_mini)]
    result = run("overfit", tmp_path / "overfit.json", task, *small)
    assert result["steps"] in (2, 4)  # two steps, or two epochs of two steps
    assert 0 <= result["metrics"][metric] <= 100
    assert "4 photos" in result["what"]


@pytest.mark.slow
def test_small_scratch_trains_both_sides(tmp_path):
    draw_classes(tmp_path / "data/train", {"across": 12, "down": 12})
    draw_classes(tmp_path / "data/val", {"across": 4, "down": 4})
    small = ["--minutes", "0.001", "--batch", "8", "--trial", "8", "--workers", "0", "--runs", str(tmp_path / "runs")]
    result = run("small_scratch", tmp_path / "scratch.json", "--data", str(tmp_path / "data"), *small)
    for side in ("ours", "timm"):
        assert result["rows"][side]["epochs"] == 1
        assert result["rows"][side]["images_per_second"] > 0
        assert set(result["rows"][side]["top1"]) == {"raw", "ema"}
    assert result["rows"]["ours"]["params"] == result["rows"]["timm"]["params"]
    assert min(result["trial_images_per_second"].values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [("60", "1"), pytest.param(("3000", "12"), id="whole")])
def test_multi_label(tmp_path, size):
    images, epochs = size
    whole = int(epochs) > 1
    result = run("multi_label", tmp_path / "m.json", "--images", images, "--epochs", epochs, "--losses", "bce")
    (row,) = result["rows"].values()
    assert len(row["per_class"]) == 6
    assert row["map"] > (95 if whole else 0)


@pytest.mark.slow
def test_roadmap_trains(tmp_path):
    for part, count in (("train", 160), ("test", 40)):
        images = [{"bytes": png(tmp_path, number)} for number in range(count)]
        labels = pa.array([number * 2 // count for number in range(count)])  # sorted by class
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{part}.parquet")
    small = ["--images", "80", "--epochs", "1", "--steps", "inverting", "--width", "0.125"]
    result = run("roadmap_trains", tmp_path / "roadmap.json", "--cifar", str(tmp_path), *small)
    assert [row["data"] for row in result["rows"]] == ["digits", "cifar10 slice"]
    assert all(len(row["top1"]) == 1 and row["skipped_steps"] == 0 for row in result["rows"])


@pytest.mark.slow
def test_small_data_trains_ours_and_another_s_recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    write_ten_classes(tmp_path, train=260, test=20)
    names = ["+ batches of 128", "timm's train.py"]
    small = ["--data", str(tmp_path), "--seeds", "0", "--seen", "260"]
    result = run("small_data", tmp_path / "small.json", "slice", *small, "--names", *names)
    assert list(result["parts"]["slice"]) == names
    for rows in result["parts"]["slice"].values():
        assert rows["0"]["seconds"] > 0
        assert 0 <= rows["0"]["top1"] == rows["0"]["balanced"] <= 100
        assert rows["0"]["images_seen"] == 256


@pytest.mark.slow
def test_small_finetune_starts_ours_and_another_s_from_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    write_ten_classes(tmp_path, train=1200, test=40)
    names = ["the same, stages 0 and 1 frozen", "small/linear-probe", "timm's train.py"]
    small = ["--data", str(tmp_path), "--seeds", "0", "--runs", str(tmp_path / "runs")]
    small += ["--seen", "500", "--epochs", "1"]
    result = run("small_finetune", tmp_path / "tuned.json", *small, "--names", *names)
    assert result["first"]["epochs"] == 1
    assert list(result["rows"]) == names
    for rows in result["rows"].values():
        assert rows["0"]["images_seen"] == 448
        assert 0 <= rows["0"]["top1"] <= 100


def write_ten_classes(folder: Path, **parts: int) -> None:
    """A parquet file of each part, with so many images."""
    for part, count in parts.items():
        images = [{"bytes": png(folder, number)} for number in range(count)]
        labels = pa.array([number % 10 for number in range(count)])
        pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{part}.parquet")


def png(folder: Path, number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    return (folder / "one.png").read_bytes()


def test_corruptions_and_their_contact_sheet(tmp_path):
    draw_classes(tmp_path / "photos", {"across": 1}, size=64)
    photos, sheet = str(tmp_path / "photos/across"), tmp_path / "sheet.png"
    script = load("corruptions")
    script["main"].__globals__["SIDE"] = 48
    script["main"](["--photos", photos, "--out", str(tmp_path / "c.json"), "--sheet", str(sheet)])
    result = json.loads((tmp_path / "c.json").read_text())
    assert len(result["corruptions"]) == 29
    assert all(row["images_per_second"] > 0 and len(row["ssim"]) == 5 for row in result["corruptions"].values())
    assert sheet.stat().st_size > 10_000


@pytest.mark.slow
def test_detector_speed(tmp_path):
    small = ["--rounds", "1", "--size", "64", "96", "--models", "mask_rcnn_convnext_atto"]
    result = run("detector_speed", tmp_path / "detector.json", *small)
    assert set(result["rows"]) == {"mask_rcnn_convnext_atto", "torchvision:maskrcnn_resnet50_fpn_v2"}
    assert all(row["seconds"]["p50"] > 0 and row["gmacs"] > 0 for row in result["rows"].values())


@pytest.mark.slow  # three processes import everything and train
def test_before_and_now_compares_two_trees(tmp_path):
    source = str(SCRIPTS.parent / "src")
    small = ["--before", source, "--rounds", "1", "--epochs", "1", "--photos", "2"]
    result = run("before_and_now", tmp_path / "now.json", *small)
    assert [row["what"] for row in result["rows"]] == ["training", "predict"]
    assert all(row["ratio"] > 0 and row["noise"] > 0 and row["now"] > 0 for row in result["rows"])


@pytest.mark.slow  # four processes import everything
def test_rule_speed_compares_two_trees(tmp_path):
    """This tree with itself: the numbers mean nothing, but both processes compute."""
    source = str(SCRIPTS.parent / "src")
    small = ["--before", source, "--rounds", "1", "--seconds", "0.001", "--only", "32 px"]
    result = run("rule_speed", tmp_path / "rule.json", *small)
    assert [row["form"] for row in result["rows"]] == ["eager", "fused", "deployed"]
    assert all(row["ratio"] > 0 and row["noise"] > 0 and row["after_ms"] > 0 for row in result["rows"])


def test_robustness_digits(tmp_path):
    (tmp_path / "robustness").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "convnext_atto"}}))
    errors = {"generated": {"fog": {str(severity): severity + 0.123 for severity in range(1, 6)}}}
    summary = {"errors": errors, "generated": {"clean_error": 2.507, "mean_error": 3.1234}}
    models = {"run": {"summary": summary, "units": [{"images": 359}]}}
    (tmp_path / "robustness/robustness.json").write_text(json.dumps({"models": models}))
    load("robustness_digits")["main"]([str(tmp_path), "--out", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["errors"] == {"fog": [1.12, 2.12, 3.12, 4.12, 5.12]}
    assert (result["images"], result["clean_error"], result["mean_error"]) == (359, 2.51, 3.12)


@pytest.mark.slow
def test_serve_load(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    rows = run("serve_load", tmp_path / "x.json", "latency", "reloads", "drift", "--scale", "0.02")["rows"]
    assert rows["latency"]["served_ms"] > 0
    assert (rows["reloads"]["reloads"], rows["reloads"]["answers_by_model"]) == (20, 2)
    assert rows["reloads"]["codes"].keys() == {"200"}
    assert rows["drift"]["requests"] > 100


@pytest.mark.slow
@pytest.mark.skipif(bool(onednn_int8.lacking()), reason="no int8 products here")
def test_int8_accuracy_of_random_weights(tmp_path):
    (row,) = run("int8_accuracy", tmp_path / "x.json", "--random", "convnext_atto")["random"]
    assert 0 < row["bf16"] < row["convnext-int8"] < 0.01
    assert row["openvino"] < 0.1


@pytest.mark.parametrize("stem", [2, 4])
def test_the_rival_of_small_images_is_the_same_network(stem):
    """timm's own network with a stem of stride 2 has maps of half the side in every stage."""
    recipe = recipes.get("small/scratch")
    recipe = replace(recipe, model=replace(recipe.model, stem_stride=stem))
    ours = create_model(recipe.model.name, num_classes=10, stem_stride=stem)
    rival = load("small_scratch")["timm_network"](recipe, 10)
    images = torch.rand(2, 3, 32, 32)
    assert rival.forward_features(images).shape[-2:] == (32 // stem // 8,) * 2
    assert sum(p.numel() for p in rival.parameters()) == sum(p.numel() for p in ours.parameters())
