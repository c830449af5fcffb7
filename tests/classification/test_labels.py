"""Several labels per image: losses beside PyTorch's, metrics beside scikit-learn's, thresholds, mixing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import nn

import convnext
from convnext.classification.dataset import ArrayDataset, fitting
from convnext.classification.label_loss import asymmetric_loss, binary_loss, mixed, smoothed
from convnext.classification.label_metrics import LabelScores, best_thresholds, probabilities
from convnext.classification.label_task import label_logits
from convnext.classification.mixup import make_mixup
from convnext.classification.results import Labels
from convnext.classification.spec import SPEC, EvaluateOptions
from convnext.classification.transforms import Preprocess
from convnext.classification.weights import positive_weights
from convnext.cli.main import run
from convnext.data.loader import Batch, EvalSamples, collate
from convnext.errors import ConvNextError
from convnext.models import build
from convnext.recipes.schema import Augment
from convnext.runtime.world import World
from convnext.seeding import seed_all
from convnext.task.inputs import Input
from convnext.task.spec import Loaded
from convnext.weights.transformers import configs
from pictures import SCRATCH, draw_classes

N, K = 200, 5
WORLD = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def scores():
    """Logits that tell a little, with many ties, and a class without images."""
    generator = np.random.default_rng(0)
    truth = generator.random((N, K)) < [0.5, 0.3, 0.05, 0.9, 0.0]
    logits = (generator.normal(0, 1, (N, K)) + truth).round(1).astype(np.float32)
    return LabelScores(logits, truth, np.array([0.5, 0.6, 0.7, 0.4, 0.5]))


def test_metrics_are_those_of_scikit_learn(scores):
    said, truth, seen = probabilities(scores.logits) >= scores.thresholds, scores.truth, [0, 1, 2, 3]
    average = {
        kind: metrics.average_precision_score(truth[:, seen], scores.logits[:, seen], average=kind)
        for kind in ("macro", None)
    }
    found = scores.metrics()
    assert found["map"] == pytest.approx(100 * average["macro"], abs=1e-9)
    assert found["map_micro"] == pytest.approx(
        100 * metrics.average_precision_score(truth.ravel(), scores.logits.ravel()), abs=1e-9
    )
    assert found["f1"] == pytest.approx(
        100 * metrics.f1_score(truth[:, seen], said[:, seen], average="macro"), abs=1e-9
    )
    assert found["f1_micro"] == pytest.approx(100 * metrics.f1_score(truth, said, average="micro"), abs=1e-9)
    assert found["loss"] == pytest.approx(
        metrics.log_loss(truth.ravel(), probabilities(scores.logits).ravel()), rel=1e-9
    )
    per_class = scores.per_class()
    others = {"f1": metrics.f1_score, "precision": metrics.precision_score, "recall": metrics.recall_score}
    for key, function in others.items():
        expected = 100 * function(truth, said, average=None, zero_division=0)
        assert [row[key] for row in per_class] == pytest.approx(expected, abs=1e-9)
    assert [row["ap"] for row in per_class[:4]] == pytest.approx(100 * average[None], abs=1e-9)
    assert [row["images"] for row in per_class] == truth.sum(0).tolist()


def test_no_threshold_has_a_higher_f1_than_the_chosen_one(scores):
    chosen = best_thresholds(scores.logits, scores.truth)
    at = replace(scores, thresholds=chosen).per_class()
    p = probabilities(scores.logits)
    for k in range(4):
        tried = [metrics.f1_score(scores.truth[:, k], p[:, k] >= t, zero_division=0) for t in np.unique(p[:, k])]
        assert at[k]["f1"] == pytest.approx(100 * max(tried))
    assert chosen[4] == 0.5, "nothing is known of a class without images"
    right = np.array([[-2.0], [3.0]], dtype=np.float32)
    assert best_thresholds(right, right > 0) == pytest.approx(probabilities(right).mean()), "halfway"


def test_the_loss_is_that_of_pytorch():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(8, 3, generator=generator), torch.rand(8, 3, generator=generator)
    weights = torch.tensor([0.4, 1.0, 30.0])
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, targets)
    assert torch.equal(binary_loss(logits, targets, weights), expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.4, 1.0, 30.0], dtype=torch.float64)])
def test_asymmetric_loss_is_its_formula(weights):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    targets = (torch.rand(8, 3, generator=generator) < 0.4).double()
    p = logits.sigmoid()
    q = torch.where(p > 0.05, p - 0.05, 0.0)
    scale = 1.0 if weights is None else weights
    expected = torch.where(targets > 0, -scale * p.log(), -(q**4) * (1 - q).log()).mean()
    assert asymmetric_loss(logits, targets, weights).item() == pytest.approx(expected.item(), rel=1e-12)
    far = torch.tensor([[90.0, -90.0]], requires_grad=True)
    asymmetric_loss(far, torch.tensor([[0.0, 1.0]])).backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_labels_are_mixed_by_the_weight_of_their_image():
    images, labels = torch.rand(7, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 1])
    augment = Augment(label_smoothing=0.0)
    for attempt in range(4):  # Mixup and CutMix
        for name, act in (("one", make_mixup(augment, 3)), ("several", lambda x, y: mixed(augment, x, y))):
            seed_all(attempt)
            found = act(images.clone(), labels if name == "one" else F.one_hot(labels, 3).float())
            if name == "one":
                expected = found
            else:
                assert torch.equal(found[0], expected[0])
                torch.testing.assert_close(found[1], expected[1])
    alone = mixed(Augment(mixup=0.0, cutmix=0.0), images, F.one_hot(labels, 3).float())
    assert torch.equal(alone[0], images)
    assert smoothed(torch.tensor([0.0, 1.0, 0.5]), 0.1).tolist() == pytest.approx([0.05, 0.95, 0.5])


def test_weights_of_the_images_that_have_a_class(tmp_path):
    counts, classes = np.array([50, 10, 1, 0, 100]), list("abcde")
    assert positive_weights("balanced", counts, 100, classes) == pytest.approx([1, 9, 99, 99, 0.01])
    assert positive_weights("inverse-sqrt", counts, 100, classes)[:3] == pytest.approx([1, 3, 99**0.5])
    (tmp_path / "w.json").write_text('{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}')
    assert positive_weights(str(tmp_path / "w.json"), counts, 100, classes).tolist() == [1, 2, 3, 4, 5]


def test_all_processes_have_all_logits():
    class Summing:
        """A process among three; what the others have done is added by hand."""

        def __init__(self):
            self.device, self.parts = torch.device("cpu"), []

        def raise_first(self, error):
            assert error is None

        def sum(self, tensor):
            self.parts.append(tensor)
            return tensor

    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(10, K, generator=generator), np.zeros((10, K), dtype=bool)
    world = Summing()
    for rank in range(3):
        own = list(range(rank, 10, 3))
        batches = [Batch(logits[part], torch.zeros(len(part), K), part, []) for part in (own[:2], own[2:], [])]
        label_logits({"raw": nn.Identity()}, batches, truth, world)
    assert torch.equal(sum(world.parts), logits)


def test_an_unreadable_image_is_named(tmp_path):
    class Broken(ArrayDataset):
        def source(self, i):
            return b"no image" if i == 0 else super().source(i)

    images = Broken("x", np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3), ["a", "b"])
    images = images.relabeled(np.ones((3, 2), dtype=bool), ["a", "b"])
    samples = EvalSamples(images, lambda image: torch.zeros(3, 8, 8))
    batch = collate([samples[i] for i in range(3)])
    with pytest.raises(ConvNextError, match="x/0"):
        label_logits({"raw": nn.Identity()}, [batch], images.labels, WORLD)


def loaded(thresholds: list[float]) -> Loaded:
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_classes, self.place = 3, nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x.mean((2, 3))

    metadata = {"classes": ["r", "g", "b"], "thresholds": thresholds, "preprocess": Preprocess.for_size(8).to_dict()}
    return SPEC.load(Mean().eval(), metadata, "model.safetensors")


def test_the_answer_is_all_labels_above_their_threshold():
    answer = SPEC.answer(
        loaded([0.5, 0.9, 0.5]), Input("x.jpg", lambda: None), torch.tensor([3.0, 1.0, 0.5]), SPEC.predict_options()
    )
    assert isinstance(answer, Labels)
    assert [cells[0] for cells in answer.summary()] == ["r", "b"]
    assert [each["class"] for each in answer.to_dict()["predictions"]] == ["r", "b"]
    assert answer.top(1)[0].label == "r"
    none = replace(answer, thresholds=[1.0, 1.0, 1.0])
    assert (none.summary(), none.to_dict()["predictions"]) == ([("no label", "")], [])


def test_transformers_hears_of_several_labels():
    tensors = build("convnext_atto", num_classes=3).state_dict()
    kinds = [configs(tensors, {"thresholds": each})["config.json"].get("problem_type") for each in ([0.5] * 3, None)]
    assert kinds == ["multi_label_classification", None]


def test_evaluation_uses_the_thresholds_of_the_weights():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images = ArrayDataset("x", pixels, np.arange(40) % 3, ["r", "g", "b"])
    results = [
        SPEC.evaluate({"best": loaded([at] * 3)}, images, "x", WORLD, EvaluateOptions(), "fp32") for at in (0.0, 0.999)
    ]
    assert results[0].details["per_class"]["best"]["r"]["recall"] == 100
    assert results[1]["f1"] == 0
    assert results[0]["map"] == results[1]["map"]
    assert "mAP %" in str(results[0])
    assert "thresholds were chosen" not in str(results[0]), "on other images they were not"
    assert "thresholds were chosen on the same held-out images" in str(replace(results[0], part="val"))
    bins = results[0].details["calibration"]["best"]
    assert sum(bins["count"]) == 120, "pairs of an image and a class"
    right = sum(n * share for n, share in zip(bins["count"], bins["accuracy"], strict=True))
    assert right == pytest.approx(40), "one class of each image applies"
    several = fitting(images, True, "x")
    assert several.labels.sum(1).tolist() == [1] * 40
    with pytest.raises(ConvNextError, match="several labels each"):
        fitting(several, False, "x")
    with pytest.raises(ConvNextError, match="2 thresholds for 3"):
        loaded([0.5, 0.5])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """60 images with stripes across, down, or both; `labels.csv` has a column for each."""
    folder = tmp_path_factory.mktemp("several")
    draw_classes(folder, {"across": 30, "down": 30})
    names = [(kind, i) for kind in ("across", "down") for i in range(30)]
    rows = [f"{kind}/{i}.png,{int(kind == 'across')},{int(kind == 'down' or i % 3 == 0)}" for kind, i in names]
    (folder / "labels.csv").write_text("\n".join(["file,across,down", *rows]) + "\n")
    return folder / "labels.csv"


TRAIN = ["train", "small/scratch", *SCRATCH, "--epochs", "2"]


@pytest.mark.slow
def test_the_whole_way(table, tmp_path, capsys):
    out = tmp_path / "run"
    argv = [*TRAIN, "--data", str(table), "--out", str(out), "--class-weights", "balanced", "--sampling", "balanced"]
    assert run([*argv, "--multi-label-loss", "asymmetric", "--best-by", "f1"]) == 0
    assert "mAP %" in capsys.readouterr().out
    thresholds = json.loads((out / "thresholds.json").read_text())
    model = convnext.load(out, weights="raw")
    assert model.opened.loaded.metadata["thresholds"] == thresholds["raw"]
    before = (out / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "summary.json"):
        (out / name).unlink()
    assert run([*argv, "--multi-label-loss", "asymmetric", "--best-by", "f1"]) == 0, "it only writes what is missing"
    assert (out / "model.safetensors").read_bytes() == before
    capsys.readouterr()
    assert run(["evaluate", str(out), "--out", str(tmp_path / "e")]) == 0
    assert "thresholds were chosen on the same held-out images" in capsys.readouterr().out
    held_out = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    last = [record for record in run_records(out) if record["kind"] == "eval"][-1]
    assert held_out["results"]["raw"] == pytest.approx(
        {k: last[f"raw/{k}"] for k in held_out["results"]["raw"]}, abs=1e-4
    )
    images = [str(table.parent / "across" / "0.png"), str(table.parent / "down" / "1.png")]
    capsys.readouterr()
    assert run(["predict", str(out), *images, "--json"]) == 0
    said = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    onnx = tmp_path / "m.onnx"
    assert run(["export", str(out), "--out", str(onnx)]) == 0
    assert "the labels agreement" in capsys.readouterr().out
    assert run(["predict", str(onnx), *images, "--json"]) == 0
    exported = [json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines()]
    assert [[each["class"] for each in one] for one in exported] == [[each["class"] for each in one] for one in said]
    assert convnext.to_transformers(out)[0].config.problem_type == "multi_label_classification"
    assert run(["robustness", str(out), "--corrupt", str(table)]) == 2
    assert "several labels" in " ".join(capsys.readouterr().err.split())


def run_records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class-weights", "balancd"], "'balanced'"),
        (["--best-by", "top1"], "'top1'"),
        (["--best-by", "map", "--class-weights", "/nowhere.json"], "no file"),
    ],
)
def test_a_dry_run_checks_what_the_data_decides(table, tmp_path, capsys, options, words):
    argv = [*TRAIN, "--data", str(table), "--out", str(tmp_path / "run"), "--dry-run"]
    assert run([*argv, *options]) == 2
    assert words in capsys.readouterr().err
    assert run([*argv, "--best-by", "map_micro", "--class-weights", "inverse-sqrt"]) == 0
