"""Detection and segmentation from the command line: train, stop, continue, evaluate, predict, look inside."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from convnext import recipes
from convnext.cli.main import run
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.files import read_record

COMMON = [
    "--total-batch", "4", "--device-batch", "2", "--model.weights", "None", "--model.drop-path-rate", "0.1",
    "--runtime.workers", "0", "--runtime.device", "cpu", "--runtime.log-every", "1", "--runtime.checkpoint-steps", "1",
    "--optim.warmup-steps", "1",
]  # fmt: skip
DETECTION = [
    "small/detect", *COMMON, "--model", "mask_rcnn_convnext_atto", "--epochs", "2", "--optim.milestones", "1", "--eval-every", "2",
    "--augment.short-sides", "64", "96", "--augment.no-random-crop", "--test-short", "64", "--test-long", "96",
    "--rpn-samples", "32", "--roi-samples", "16",
]  # fmt: skip
SEGMENTATION = [
    "small/segment", *COMMON, "--model", "upernet_convnext_atto", "--steps", "4", "--eval-every", "3",
    "--model.channels", "32", "--model.auxiliary-channels", "16", "--augment.short", "64", "--augment.long", "256",
    "--augment.crop", "64", "--reduce-zero-label", "True",
]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), images=8, val_images=1, size=96)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_shapes_semantic(tmp_path_factory.mktemp("labelled"), images=8, val_images=3, size=96)


@pytest.fixture(scope="module")
def detector(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "detector"
    assert run(["train", *DETECTION, "--data", str(shapes), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def segmenter(labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "segmenter"
    assert run(["train", *SEGMENTATION, "--data", str(labelled), "--out", str(out)]) == 0
    return out


def records(out) -> list[dict]:
    return [read_record(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def interrupted_then_continued(monkeypatch, task, argv: list[str], out, at: int):
    """Train, fail at a step, and give the same command again."""
    losses, calls = task.losses, []

    def failing(self, model, batch):
        calls.append(batch)
        if len(calls) == 2 * at:
            raise RuntimeError("the power is gone")
        return losses(self, model, batch)

    monkeypatch.setattr(task, "losses", failing)
    with pytest.raises(RuntimeError, match="power"):
        run([*argv, "--out", str(out)])
    monkeypatch.undo()
    assert run([*argv, "--out", str(out)]) == 0


def same_bits(one, other):
    for name in ("model.safetensors", "model_ema.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_detector_leaves_everything_behind(detector, capsys):
    found = records(detector)
    train = [record for record in found if record["kind"] == "train"]
    parts = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask")
    assert len(train) == 4
    for record in train:
        assert record["loss"] == pytest.approx(sum(record[part] for part in parts), rel=1e-5)
    assert train[0]["lr"] == pytest.approx(1e-4 * 1e-3)
    assert [record["lr"] for record in train[1:]] == pytest.approx([1e-4, 1e-5, 1e-5])
    assert {"raw/box_ap", "ema/mask_ap", "raw/box_ap_small"} <= found[-1].keys()
    assert {path.name for path in detector.iterdir()} >= {"best.safetensors", "curves.png", "summary.json"}
    assert run(["info", str(detector)]) == 0
    said = capsys.readouterr().out
    assert "mask_rcnn_convnext_atto" in said
    assert "circle, rectangle, triangle" in said


@pytest.mark.slow
def test_a_stopped_detector_continues_to_the_same_bits(detector, shapes, tmp_path, monkeypatch):
    from convnext.detection.task import DetectionTask

    argv = ["train", *DETECTION, "--data", str(shapes)]
    interrupted_then_continued(monkeypatch, DetectionTask, argv, tmp_path / "run", at=3)
    same_bits(detector, tmp_path / "run")


def test_a_stopped_segmenter_continues_to_the_same_bits(segmenter, labelled, tmp_path, monkeypatch):
    from convnext.segmentation.task import SegmentationTask

    argv = ["train", *SEGMENTATION, "--data", str(labelled)]
    interrupted_then_continued(monkeypatch, SegmentationTask, argv, tmp_path / "run", at=4)
    same_bits(segmenter, tmp_path / "run")


def test_evaluating_a_detector(detector, shapes, tmp_path, capsys):
    assert run(["evaluate", str(detector), "--weights", "raw", "--out", str(tmp_path)]) == 0
    assert "pycocotools" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    last = records(detector)[-1]
    for key, value in evaluation["results"]["raw"].items():
        # the faster evaluator's; nan, in the file null, where nothing is
        np.testing.assert_allclose(np.asarray(value, float), last[f"raw/{key}"], atol=1e-3)
    assert isinstance(json.loads((tmp_path / "detections-raw.json").read_text()), list)
    assert run(["evaluate", str(detector), "--data", str(shapes), "--weights", "ema", "--fast"]) == 0


def test_predicting_objects(detector, shapes, tmp_path, capsys):
    pictures = sorted((shapes / "val").glob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:300])
    out = tmp_path / "found"
    argv = ["predict", str(detector), *map(str, pictures), str(broken), "--out", str(out), "--threshold", "0"]
    assert run(argv) == 2
    said = capsys.readouterr()
    assert "broken.png" in said.err
    assert {path.name for path in out.iterdir()} == {f"{p.stem}.jpg" for p in pictures} | {"detections.json"}
    for found in json.loads((out / "detections.json").read_text()):
        assert {"file_name", "image_id", "category_id", "bbox", "score", "segmentation"} <= found.keys()


def test_a_segmenter_leaves_everything_behind(segmenter, capsys):
    found = records(segmenter)
    train = [record for record in found if record["kind"] == "train"]
    assert [record["step"] for record in found if record["kind"] == "eval"] == [3, 4]
    assert [record["lr"] for record in train[1:]] == pytest.approx([1e-4 * (1 - k / 4) for k in (1, 2, 3)])
    assert train[0]["loss"] == pytest.approx(train[0]["decode"] + train[0]["auxiliary"], rel=1e-5)
    assert {"raw/miou", "ema/macc", "raw/aacc"} <= found[-1].keys()
    assert run(["info", str(segmenter)]) == 0
    assert "background, circle, rectangle, triangle" in capsys.readouterr().out


def test_evaluating_a_segmenter(segmenter, labelled, tmp_path, capsys):
    assert run(["evaluate", str(segmenter), "--weights", "raw", "--out", str(tmp_path)]) == 0
    assert "mIoU" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluation["results"]["raw"]["miou"] == pytest.approx(records(segmenter)[-1]["raw/miou"], abs=1e-9)
    argv = ["evaluate", str(segmenter), "--data", str(labelled), "--weights", "ema", "--mode", "multi-scale"]
    assert run([*argv, "--reduce-zero-label", "True"]) == 0


def test_predicting_regions(segmenter, labelled, tmp_path):
    pictures = sorted((labelled / "images" / "validation").glob("*.png"))
    named_like_a_result = tmp_path / f"{pictures[0].stem}.colours.png"
    shutil.copy(pictures[-1], named_like_a_result)
    out = tmp_path / "regions"
    assert run(["predict", str(segmenter), *map(str, pictures), str(named_like_a_result), "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 3 * (len(pictures) + 1)
    for picture in pictures:
        labels = np.asarray(Image.open(out / f"{picture.stem}.png"))
        assert labels.shape == np.asarray(Image.open(picture)).shape[:2]
        assert labels.max() < 4
        assert (out / f"{picture.stem}.overlay.jpg").exists()
        assert (out / f"{picture.stem}.colours.png").exists()


def test_checking_data(shapes, labelled, tmp_path, capsys):
    assert run(["data", "check", str(shapes), "--out", str(tmp_path / "a")]) == 0
    assert run(["data", "check", str(labelled), "--out", str(tmp_path / "b")]) == 1  # its labels count from 1
    assert "labels of value 4" in capsys.readouterr().out
    assert (tmp_path / "a" / "sample.png").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "coco/mask-rcnn-tiny"], "--data with a folder in COCO's layout"),
        (["train", "ade20k/upernet-tiny"], "--data with a folder in ADE20K's layout"),
        (["train", *DETECTION, "--data", "{labelled}"], "which has no boxes"),
        (["train", *SEGMENTATION, "--data", "{shapes}"], "must hold images/"),
        (
            ["train", *DETECTION, "--data", "{shapes}", "--model.name", "mask_rcnn_convnext_tinny"],
            "mask_rcnn_convnext_tiny",
        ),
        (["train", *DETECTION, "--data", "{shapes}", "--augment.short-sides", "0"], "short-sides"),
        (["evaluate", "{detector}", "--data", "{labelled}"], "which has no boxes"),
        (["evaluate"], "Name a model"),
        (["predict", "{detector}", "{shapes}/nothing/*.jpg"], "nothing there"),
    ],
)
def test_mistakes_get_a_paragraph(argv, said, shapes, labelled, detector, segmenter, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"shapes": shapes, "labelled": labelled, "detector": detector, "segmenter": segmenter}
    assert run([word.format(**places) if "{" in word else word for word in argv]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.slow), "segmentation"])
def test_starting_from_a_classifier_and_from_a_whole_model(task, request, tmp_path, capsys):
    import convnext

    data, whole = (("shapes", "detector"), ("labelled", "segmenter"))[task == "segmentation"]
    length = ["--epochs", "1"] if task == "detection" else ["--steps", "2", "--eval-every", "2"]
    argv = ["train", *(DETECTION if task == "detection" else SEGMENTATION), *length]
    argv += ["--data", str(request.getfixturevalue(data))]
    backbone = convnext.save_weights(convnext.create_model("convnext_atto"), tmp_path / "atto.safetensors")
    assert run([*argv, "--model.weights", str(backbone), "--out", str(tmp_path / "a")]) == 0
    assert "for the backbone" in capsys.readouterr().out
    best = request.getfixturevalue(whole) / "best.safetensors"
    assert run([*argv, "--model.weights", str(best), "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "Weights from" in said
    assert "for the backbone" not in said


@pytest.mark.parametrize("recipe", ["small/detect", "small/segment"])
def test_a_start_from_random_weights_is_told_the_weights_of_its_own_task(recipe, shapes, labelled, tmp_path, capsys):
    options = {
        "small/detect": [*DETECTION, "--data", str(shapes)],
        "small/segment": [*SEGMENTATION, "--data", str(labelled)],
    }
    assert run(["train", *options[recipe], "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    released = recipes.get(recipe).model.weights
    assert f"such as {released}." in " ".join(capsys.readouterr().out.split())
