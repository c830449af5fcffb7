"""A task from outside the package: regression of one number per image, read from a CSV, through the same verbs and API.

Everything that the task is stands in this file, and one line, `tasks.register(SPEC)`, makes it known.
"""

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import convnext
from convnext import models, tasks
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.cli.main import run
from convnext.data.images import decode
from convnext.data.loader import EvalSamples, ImageOnly, eval_loader
from convnext.data.split import hold_out
from convnext.errors import ConvNextError
from convnext.recipes.schema import AdamW, ByEpochs, Ema, Model, Optim, Recipe, Runtime
from convnext.runtime.evaluation import evaluate_batches
from convnext.seeding import seed_all
from convnext.task.engine import DataTask
from convnext.task.results import Evaluation, Prediction, Table
from convnext.task.spec import Loaded, TaskSpec


@dataclass(frozen=True)
class Regression(ByEpochs, Recipe):
    """Images with one number each."""

    task: ClassVar[str] = "regression"
    data: str = ""
    """Folder with values.csv (columns image, value) and the images."""
    image_size: int = 32
    """Side of the square input in pixels."""
    model: Model = field(default_factory=lambda: Model("convnext_atto", stem_stride=4))
    optim: AdamW = field(default_factory=lambda: Optim(lr=2e-3, warmup_epochs=None))


class Numbers:
    """N images of a folder with the number that values.csv gives each."""

    classes = ("value",)

    def __init__(self, folder: Path, rows: list[tuple[str, float]]):
        self.folder, self.rows = folder, rows

    def __len__(self):
        return len(self.rows)

    def name(self, i):
        return self.rows[i][0]

    def image(self, i):
        return decode(self.folder / self.rows[i][0])

    def target(self, i):
        return torch.tensor(self.rows[i][1])

    def fingerprint(self):
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()


@dataclass
class Value(Prediction):
    value: float

    def summary(self):
        return [(f"{self.value:.3f}",)]

    def to_dict(self):
        return {"file": self.name, "value": self.value}

    def draw(self):
        return self.source.image()


class RegressionTask(DataTask):
    metric = "r2"
    columns = (("r2", "R2 %", 2), ("mae", "mean error", 4))

    def __init__(self, recipe, plan, train, val, world, folder, say):
        super().__init__(recipe, plan, train, val, train.fingerprint(), world, folder, say)
        self.preprocess, self.classes = Preprocess(recipe.image_size, 1.0), ["value"]
        seed_all(recipe.seed, "init")
        self.model = SPEC.build(recipe.model.name, num_classes=1, stem_stride=recipe.model.stem_stride).to(world.device)

    def train_transform(self):
        return ImageOnly(eval_transform(self.preprocess))

    def losses(self, model, batch):
        return {"loss": F.mse_loss(model(batch.images)[:, 0], batch.targets)}

    def evaluate(self, models, interrupted=lambda: False):
        return measured(models, self.val, eval_transform(self.preprocess), self.world, interrupted)


def measured(models, samples, transform, world, interrupted=lambda: False, progress=lambda done: None):
    sums = {label: torch.zeros(5, dtype=torch.float64) for label in models}
    loader = eval_loader(EvalSamples(samples, transform), 16, 0, False, world.rank, world.size)

    def step(batch):
        for label, model in models.items():
            y, t = model(batch.images)[:, 0].double(), batch.targets.double()
            e = y - t
            sums[label] += torch.stack([torch.tensor(len(t)), t.sum(), (t * t).sum(), (e * e).sum(), e.abs().sum()])
        return len(batch.indices)

    with torch.inference_mode():
        evaluate_batches(models, loader, step, world, interrupted, progress)
    found = {}
    for label, total in sums.items():
        n, s, ss, ee, ae = world.sum(total).tolist()
        found[label] = {"r2": 100 * (1 - ee / (ss - s * s / n)), "mae": ae / n}
    return found


class RegressionSpec(TaskSpec):
    name, noun, doing, recipe = "regression", "regressor", "measuring", Regression
    recipes = {
        "regression": Regression(
            epochs=12,
            total_batch=16,
            device_batch=16,
            ema=Ema(decay=None, half_life_share=0.05),
            runtime=Runtime(workers=0),
        )
    }

    def build(self, name, **options):
        return models.build(name, **options)

    def identify(self, tensors):
        return None  # our files say by themselves which task they are of

    def open_data(self, recipe):
        folder = Path(recipe.data)
        if not (folder / "values.csv").is_file():
            raise ConvNextError(f"{folder} has no values.csv.")
        with open(folder / "values.csv", newline="") as file:
            rows = [(row["image"], float(row["value"])) for row in csv.DictReader(file)]
        parts = hold_out([name for name, _ in rows], recipe.val_share, recipe.seed)
        return tuple(Numbers(folder.absolute(), [rows[i] for i in part]) for part in parts)

    def engine(self, train):
        return RegressionTask

    def geometry(self, recipe):
        return f"{recipe.image_size}", f"{recipe.image_size} px"

    def load(self, module, metadata, source):
        return Loaded(module, ["value"], ["value"], Preprocess.from_dict(metadata["preprocess"]), source, metadata)

    def transform(self, loaded):
        return eval_transform(loaded.preprocess)

    def answer(self, loaded, source, output, options):
        return Value(source, float(output[0]))

    def evaluate(
        self, models, samples, data, world, options, precision, batch=None, workers=0, progress=lambda n: None
    ):
        first = next(iter(models.values()))
        modules = {which: loaded.module for which, loaded in models.items()}
        found = measured(modules, samples, self.transform(first), world, progress=progress)
        table = Table(
            ("weights", "R2 %", "mean error"), [(w, f"{m['r2']:.2f}", f"{m['mae']:.4f}") for w, m in found.items()]
        )
        return Evaluation(data, len(samples), found, "r2", precision, [table])


SPEC = RegressionSpec()
tasks.register(SPEC)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory) -> Path:
    """Noisy grey images with their brightness in 0..1."""
    folder, generator = tmp_path_factory.mktemp("brightness"), np.random.default_rng(0)
    rows = []
    for i in range(120):
        value = generator.uniform(0.1, 0.9)
        pixels = (255 * (value + generator.normal(0, 0.05, (32, 32, 3)))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{value:.5f}")
    (folder / "values.csv").write_text("image,value\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(brightness, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "brightness"
    run_ = convnext.train("regression", data=str(brightness), out=out, quiet=True)
    assert run_.best["score"] > 60  # the mean of all images would have 0
    return out


def test_it_trains_and_resumes_to_the_same_bits(trained, brightness, tmp_path, monkeypatch):
    losses, calls = RegressionTask.losses, []

    def failing(self, model, batch):
        calls.append(batch)
        if len(calls) == 30:
            raise RuntimeError("the power is gone")
        return losses(self, model, batch)

    monkeypatch.setattr(RegressionTask, "losses", failing)
    argv = ["train", "regression", "--data", str(brightness), "--out", str(tmp_path / "run")]
    with pytest.raises(RuntimeError, match="power"):
        run(argv)
    monkeypatch.undo()
    assert run(argv) == 0
    one, other = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_evaluated_on_the_command_line_and_in_python(trained, brightness, tmp_path, capsys):
    assert run(["evaluate", str(trained), "--out", str(tmp_path)]) == 0
    assert "R2 %" in capsys.readouterr().out
    found = json.loads((tmp_path / "evaluation.json").read_text())
    model = convnext.load(trained, device="cpu")
    result = model.evaluate(brightness)
    assert result["r2"] == pytest.approx(found["results"]["best"]["r2"])
    assert (result.images, result.trained_on) == (12, 0)


def test_it_predicts_and_exports(trained, brightness, tmp_path, capsys):
    images = [str(brightness / f"{i}.png") for i in range(3)]
    assert run(["predict", str(trained), *images, "--json"]) == 0
    values = [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()]
    model = convnext.load(trained, device="cpu")
    assert [p.value for p in model.predict(images)] == pytest.approx(values)
    report = model.export("onnx", tmp_path / "b.onnx", images=(str(brightness),))
    assert "1e-04" in str(report) or "0.0001" in str(report)
    again = convnext.load(tmp_path / "b.onnx")
    assert again.task == "regression"
    assert [p.value for p in again.predict(images)] == pytest.approx(values, abs=1e-4)
    assert run(["info", str(trained)]) == 0
    assert "regression" in capsys.readouterr().out
