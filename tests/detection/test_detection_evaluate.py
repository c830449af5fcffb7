"""Average precision against pycocotools run by hand on the written file, and that nothing but the detections decides it."""

import copy
import hashlib
import io
import json
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from convnext.data.images import ImageError
from convnext.data.pixels import DensePreprocess
from convnext.data.shapes import write_shapes
from convnext.detection.average_precision import Result, score_detections, to_coco
from convnext.detection.coco import CocoImages, open_coco, open_coco_split
from convnext.detection.evaluate import evaluate
from convnext.errors import ConvNextError
from convnext.runtime.interruption import Interrupted
from convnext.runtime.world import World

COCO_MINI = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
WORLD = World(torch.device("cpu"))
PRE = DensePreprocess(48, 70)
KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def key(image: torch.Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


class Planted(nn.Module):
    """Knows every image; answers with its objects, moved by up to `noise` pixels, and some that are not there."""

    def __init__(self, data: CocoImages, noise: int, pre: DensePreprocess = PRE):
        super().__init__()
        self.answers, self.calls = {}, []
        for i in range(len(data)):
            rng, target = np.random.default_rng(i), data.target(i)
            boxes, masks, labels = target["boxes"], target["masks"], target["labels"]
            if noise:
                moves = rng.integers(-noise, noise + 1, (len(boxes), 2))
                boxes = boxes + np.tile(moves, 2).astype(np.float32)
                masks = np.array(
                    [np.roll(mask, move, (1, 0)) for mask, move in zip(masks, moves, strict=True)]
                ).reshape(masks.shape)
                again = rng.integers(0, len(boxes), 2) if len(boxes) else []
                boxes, masks, labels = (np.concatenate([a, a[again]]) for a in (boxes, masks, labels))
                labels[-2:] = rng.integers(0, len(data.classes), 2) if len(labels) else 0
            scores = rng.choice([0.2, 0.5, 0.9], len(boxes))  # with ties
            self.answers[key(pre(data.image(i)))] = {
                "boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores),
                "labels": torch.from_numpy(labels), "masks": torch.from_numpy(masks),
            }  # fmt: skip

    def predict(self, x, image_sizes, output_sizes):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert x.shape[2] % 32 == x.shape[3] % 32 == 0
        self.calls.append(len(x))
        found = []
        for image, (height, width), size in zip(x, image_sizes, output_sizes, strict=True):
            assert image[:, height:].abs().sum() == image[:, :, width:].abs().sum() == 0
            assert max(x.shape[2] - height, x.shape[3] - width) < 32  # no more than it needs alone
            found.append(copy.deepcopy(self.answers[key(image[:, :height, :width])]))
            assert found[-1]["masks"].shape[1:] == size
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_shapes(tmp_path_factory.mktemp("shapes"), 2, 14, 128)
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != content["images"][3]["id"]]
    path.write_text(json.dumps(content))  # an image without objects
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return open_coco(folder)[1]


@pytest.fixture(scope="module")
def noisy(data):
    return evaluate({"raw": Planted(data, 6)}, data, PRE, WORLD)["raw"]


def by_hand(annotations: Path, detections: Path, kind: str) -> list[float]:
    """pycocotools' first six numbers, in percent, from files alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):
        truth, found = COCO(str(annotations)), json.loads(detections.read_text())
        for detection in found:
            detection.pop("bbox" if kind == "segm" else "segmentation")
        run = COCOeval(truth, truth.loadRes(found), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [100 * value for value in run.stats[:6]]


def test_equals_plain_pycocotools_on_the_written_file(folder, noisy, tmp_path):
    path = noisy.write_json(tmp_path / "found" / "detections.json")
    metrics = noisy.metrics()
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        expected = by_hand(folder / "annotations" / "instances_val.json", path, kind)
        for number, part in zip(expected, KEYS, strict=True):
            ours = metrics[f"{name}_{part}"]
            assert (math.isnan(ours) and number == -100) or ours == pytest.approx(number, abs=1e-9)
        assert 5 < metrics[f"{name}_ap"] < 95
    assert not math.isnan(metrics["mask_ap_small"])
    assert not math.isnan(metrics["mask_ap_medium"])


def test_the_faster_evaluator_agrees(data, noisy):
    fast = score_detections(noisy.detections, data, reference=False)
    for name, value in noisy.metrics().items():
        assert fast.metrics()[name] == pytest.approx(value, abs=1e-3, nan_ok=True)
    assert fast.box.per_class == pytest.approx(noisy.box.per_class, abs=1e-3, nan_ok=True)


def test_perfect_detections_have_100(data):
    result = evaluate({"raw": Planted(data, 0)}, data, PRE, WORLD)["raw"]
    assert {value for value in result.metrics().values() if not math.isnan(value)} == {100.0}
    assert len(result.metrics()) == 12
    assert [row["name"] for row in result.per_class] == data.classes
    assert [row["objects"] for row in result.per_class] == data.counts().tolist()
    assert all(row["box_ap"] == row["mask_ap"] == 100 for row in result.per_class)


def test_classes_average_to_the_whole(noisy):
    assert np.mean([row["box_ap"] for row in noisy.per_class]) == pytest.approx(noisy.metrics()["box_ap"])
    assert np.mean([row["mask_ap"] for row in noisy.per_class]) == pytest.approx(noisy.metrics()["mask_ap"])


@pytest.mark.parametrize(("batch", "workers"), [(3, 0), (64, 2)])
def test_the_batch_changes_nothing(data, noisy, batch, workers):
    model, done = Planted(data, 6), []
    result = evaluate({"raw": model}, data, PRE, WORLD, batch=batch, workers=workers, progress=done.append)["raw"]
    assert result.detections == noisy.detections
    assert result.metrics() == pytest.approx(noisy.metrics(), nan_ok=True)
    assert done[-1] == sum(model.calls) == len(data)
    assert max(model.calls) > 1


def one_of_two(rank: int, folder: Path, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    data = open_coco(folder)[1].subset(range(13))  # one more on the first process
    world, asked = World(torch.device("cpu"), rank, 2, 2), []
    model = Planted(data, 6)
    result = evaluate({"raw": model}, data, PRE, world, batch=2, interrupted=lambda: bool(asked.append(1)))["raw"]
    saved = {"metrics": result.metrics(), "found": result.detections, "seen": sum(model.calls), "asked": len(asked)}
    (out / f"{rank}.json").write_text(json.dumps(saved))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_change_nothing(folder, data, tmp_path):
    other = mp.get_context("spawn").Process(target=one_of_two, args=(1, folder, tmp_path))
    other.start()
    one_of_two(0, folder, tmp_path)
    other.join()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = evaluate({"raw": Planted(data.subset(range(13)), 6)}, data.subset(range(13)), PRE, WORLD)["raw"]
    assert (first["seen"], second["seen"]) == (7, 6)
    assert first["asked"] == second["asked"]
    for one in (first, second):
        assert one["found"] == alone.detections
        assert one["metrics"] == pytest.approx(alone.metrics(), nan_ok=True)


def test_several_models_and_their_modes(data, noisy):
    models = {"raw": Planted(data, 6).train(), "ema": Planted(data, 0).eval()}
    results = evaluate(models, data, PRE, WORLD, reference=False)
    assert results["raw"].detections == noisy.detections
    assert results["ema"].metrics()["mask_ap"] == 100
    assert (models["raw"].training, models["ema"].training) == (True, False)


def test_nothing_found_and_nothing_to_find(data, capfd):
    nothing = score_detections([], data)
    values = np.array(list(nothing.metrics().values()))
    assert len(values) == 12
    assert set(values[~np.isnan(values)]) == {0.0}
    assert {row["box_ap"] for row in nothing.per_class} == {0.0}
    empty = data.subset([3])
    for found in ([], [{"image_id": int(empty.image_ids[0]), "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]):
        for reference in (True, False):
            metrics = score_detections(found, empty, reference).metrics()
            assert all(math.isnan(value) for value in metrics.values())
            assert len(metrics) == (6 if found else 12)  # a model without masks has no mask AP
    assert capfd.readouterr() == ("", "")


def test_annotations_from_0_count(folder, data, tmp_path):
    """pycocotools takes a match with the annotation 0 for none."""
    path = folder / "annotations" / "instances_val.json"
    from_0 = json.loads(path.read_text())
    for annotation in from_0["annotations"]:
        annotation["id"] -= 1
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(from_0))
    (tmp_path / "val").symlink_to(folder / "val")
    perfect = evaluate({"raw": Planted(data, 0)}, data, PRE, WORLD)["raw"]
    assert score_detections(perfect.detections, open_coco_split(tmp_path, "val")).metrics()["box_ap"] == 100


def test_format(noisy, data):
    detection = noisy.detections[0]
    assert detection.keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert detection["category_id"] in data.category_ids
    x, y, w, h = detection["bbox"]
    expected = {
        "boxes": torch.tensor([[x, y, x + w, y + h]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([1]),
    }
    assert to_coco(expected, 7, data.category_ids, None) == [
        {"image_id": 7, "category_id": 3, "bbox": [x, y, w, h], "score": 0.5}
    ]


def test_many_masks_on_one_image(data):
    """pycocotools' own area of a list fails from 256 on."""
    detection = evaluate({"raw": Planted(data, 0)}, data.subset([0]), PRE, WORLD)["raw"].detections[0]
    many = score_detections([detection | {"score": 1 - k / 1000} for k in range(300)], data.subset([0]))
    assert isinstance(many, Result)


def test_it_stops_when_asked(data):
    asked = iter([False, True])
    model = Planted(data, 0).train()
    with pytest.raises(Interrupted):
        evaluate({"raw": model}, data, PRE, WORLD, interrupted=lambda: next(asked))
    assert model.training
    assert len(model.calls) == 1


def test_an_unreadable_image_ends_it_by_name(tmp_path):
    data = open_coco(write_shapes(tmp_path, 1, 2, 48))[1]
    model = Planted(data, 0)
    (tmp_path / "val" / "000003.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"000003\.png.*leaves no image out"):
        evaluate({"raw": model}, data, PRE, WORLD)


def test_detections_of_other_images(data, noisy):
    with pytest.raises(ConvNextError, match=r"of \d+ images that .*instances_val\.json does not have"):
        score_detections(noisy.detections, data.subset([0]))


def test_without_the_extra(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    model = Planted(data, 0)
    with pytest.raises(ConvNextError, match=r"faster_coco_eval.*--extra detection"):
        evaluate({"raw": model}, data, PRE, WORLD, reference=False)
    assert not model.calls


@pytest.mark.shared
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs ../shared/data/coco-mini")
def test_real_annotations(tmp_path):
    data, pre = open_coco(COCO_MINI)[1].subset(range(0, 100, 2)), DensePreprocess(160, 240)
    result = evaluate({"raw": Planted(data, 12, pre)}, data, pre, WORLD, batch=8)["raw"]
    path, truth = result.write_json(tmp_path / "detections.json"), tmp_path / "truth.json"
    content = json.loads((COCO_MINI / "annotations" / "instances_val2017.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] in set(data.image_ids)]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in set(data.image_ids)]
    truth.write_text(json.dumps(content))
    fast = score_detections(result.detections, data, reference=False).metrics()
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        ours = [result.metrics()[f"{name}_{part}"] for part in KEYS]
        assert ours == pytest.approx(by_hand(truth, path, kind), abs=1e-9)
        assert [fast[f"{name}_{part}"] for part in KEYS] == pytest.approx(ours, abs=1e-3)
        assert 5 < ours[0] < 95


def test_results_without_boxes_are_scored_by_their_masks(data, noisy):
    """As cocoapi does: the box is the one around the mask."""
    masks = [{key: value for key, value in detection.items() if key != "bbox"} for detection in noisy.detections]
    result = score_detections(masks, data)
    assert {k: v for k, v in result.metrics().items() if k.startswith("mask")} == pytest.approx(
        {k: v for k, v in noisy.metrics().items() if k.startswith("mask")}, nan_ok=True
    )
    assert 0 < result.metrics()["box_ap"] <= 100
    assert "bbox" not in result.detections[0]


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox"])
def test_a_result_that_lacks_a_key_is_named(data, noisy, key):
    lacking = {k: v for k, v in noisy.detections[0].items() if k not in (key, "segmentation")}
    with pytest.raises(ConvNextError, match=f"Detection 1 has no '{key}"):
        score_detections([noisy.detections[0], lacking], data)
