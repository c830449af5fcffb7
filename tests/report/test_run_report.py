"""The page about a run: what it shows, what it never loads or trusts, and that a browser draws it."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops

from chromium import PROGRAM, Browser
from convnext import recipes
from convnext.cli.main import run as command
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.errors import ConvNextError
from convnext.recipes.diff import from_paper
from convnext.report.calibration import calibration
from convnext.report.run import write_report
from convnext.task.examples import Example, write_examples
from pictures import SCRATCH, TINY, draw_classes

HOSTILE = "<script>alert(1)</script>\x1b[31m & \udcff"


def noise(width: int = 128, height: int = 96) -> Image.Image:
    return Image.effect_noise((width, height), 80)


@pytest.fixture
def finished(tmp_path):
    """The files of a finished and evaluated run of 40 classes, one of which has a hostile name."""
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    classes = [HOSTILE, *(f"class {i}" for i in range(39))]
    config = {
        "name": "quickstart",
        "task": "classification",
        "source": "ours",
        "data": HOSTILE,
        "model": {"name": "convnext_atto"},
    }
    train = [
        {"kind": "train", "step": i, "epoch": i / 10, "loss": 3 / i, "images_per_second": 100.0} for i in range(1, 21)
    ]
    final = {
        "kind": "eval",
        "step": 20,
        "epoch": 2.0,
        "raw/loss": 0.5,
        "raw/top1": 71.25,
        "ema/loss": 0.6,
        "ema/top1": 70.5,
    }
    confidence = np.random.default_rng(0).random(200)
    measured = calibration(confidence, np.arange(200) % 4 > 0)
    made = [Example("Mistakes <b>", f"{HOSTILE} {i}", (noise(), noise())) for i in range(10)]
    write_examples(lambda: made, folder / "evaluation" / "examples.parquet")
    seen = [Example("Trained on", "cat", (noise(320, 240),)) for i in range(12)]
    write_examples(lambda: seen, folder / "evaluation" / "training.parquet")
    evaluation = {
        "data": "photos (held out)",
        "images": 200,
        "precision": "fp32",
        "results": {"best": {"top1": 75.0, "loss": 0.4}},
        "note": "told with the tables",
        "calibration": {"best": {"of": "answers", **measured.to_dict()}},
        "per_class": {"best": {name: {"images": 5, "top1": float(i)} for i, name in enumerate(classes)}},
    }
    files = {
        "config.json": config,
        "summary.json": {"final": final, "best": {"score": 75.0, "weights": "raw", "step": 20}, "metric": "top1"},
        "environment.json": {
            "command": "convnext train quickstart",
            "convnext": "0.1.0",
            "packages": {"torch": "2.15"},
        },
        "evaluation/evaluation.json": evaluation,
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*train, final])) + "\n")
    Image.new("RGB", (40, 40)).save(folder / "evaluation" / "confusion.png")
    return folder


def test_the_page_shows_the_run_and_loads_nothing(finished):
    paper = "table5/tiny", [("epochs", 300, 12)]
    text = write_report(finished, [("optim.lr", 0.002, 0.001)], paper=paper).read_text()
    words = "71.25|optim.lr|0.001|Expected calibration error|class 38|convnext train quickstart|2.15|10 more|100.0"
    words += "|told with the tables|nearest recipe, table5/tiny: 1 setting "
    assert [word for word in words.split("|") if word not in text] == []
    assert text.count('src="data:image/jpeg') == 32
    assert (
        text.index("Trained on")
        < text.index("<h2>Result")
        < text.index("<h2>Calibration")
        < text.index("Mistakes &lt;b")
    )
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert len(text.encode()) < 5_000_000


def test_a_run_alone_says_what_is_missing(finished, tmp_path):
    shutil.rmtree(finished / "evaluation")
    (finished / "summary.json").unlink()
    text = write_report(finished, None, tmp_path / "x.html").read_text()
    assert "convnext evaluate" in text
    assert "not finished" in text
    assert "Calibration" not in text


def test_damaged_files_end_in_a_sentence(finished):
    (finished / "summary.json").write_text('{"best": {"score": "high"}}')
    with pytest.raises(ConvNextError, match="restore"):
        write_report(finished)
    (finished / "summary.json").write_text("{")
    with pytest.raises(ConvNextError, match="not JSON"):
        write_report(finished)
    (finished / "summary.json").unlink()
    (finished / "evaluation" / "examples.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConvNextError, match="Evaluate again"):
        write_report(finished)
    (finished / "evaluation" / "examples.parquet").unlink()
    for wrong in ({"count": [1], "confidence": [1], "accuracy": [1]}, [], {"count": "many"}):
        (finished / "evaluation" / "evaluation.json").write_text(json.dumps({"calibration": {"best": wrong}}))
        with pytest.raises(ConvNextError, match="something else"):
            write_report(finished)


def test_calibration_is_counted_by_hand():
    confidence = np.array([0.05, 0.31, 0.32, 0.99, 1.0, 0.97])
    hit = np.array([False, True, False, True, True, False])
    found = calibration(confidence, hit)
    assert (found.count[0], found.count[4], found.count[14]) == (1, 2, 3)
    by_hand = (1 * 0.05 + 2 * abs(0.5 - 0.315) + 3 * abs(2 / 3 - 2.96 / 3)) / 6
    assert found.error == pytest.approx(by_hand)
    assert calibration(np.full(10, 0.7), np.arange(10) < 7).error == pytest.approx(0)


def test_classes_of_a_detector_are_rows_with_their_names(finished):
    rows = [
        {"name": HOSTILE, "objects": 3, "box_ap": 40.0, "mask_ap": None},
        {"name": "dog", "objects": 9, "box_ap": 1.5, "mask_ap": 2.0},
        {"name": "none", "objects": 0, "box_ap": None, "mask_ap": None},
    ]
    evaluation = {"results": {"best": {"box_ap": 20.0}}, "per_class": {"best": rows}}
    (finished / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    text = write_report(finished).read_text()
    table = text[text.index("<h2>Classes") : text.index("<h2>Figures")]
    assert table.index(">dog<") < table.index("&lt;script") < table.index(">none<"), "the worst first"
    assert "<script" not in text


def test_a_page_stays_small_whatever_the_pictures(finished):
    path = finished / "evaluation" / "examples.parquet"
    large = noise(1200, 1200)
    write_examples(lambda: [Example("a", str(i), (ImageChops.offset(large, i),)) for i in range(12)], path)
    assert path.stat().st_size > 5_000_000
    assert len(write_report(finished).read_bytes()) < 5_000_000


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("quickstart", "table5/"),
        ("small/finetune", "table5/tiny"),
        ("small/detect", "coco/mask-rcnn-tiny"),
        ("small/segment", "ade20k/upernet-tiny"),
        ("table6/base-384", None),
        ("roadmap/resnet50-depthwise", "table5/"),
    ],
)
def test_the_recipe_of_the_paper_that_a_run_is_nearest_to(name, nearest):
    found = from_paper(name, recipes.get(name), recipes.recipes())
    if nearest is None:
        assert found is None
        return
    assert found is not None
    other, rows = found
    assert other.startswith(nearest)
    fields = [field for field, *_ in rows]
    assert fields
    assert not {"data", "source", "runtime.workers", "val_share"} & set(fields)


LITTLE = "--runtime.workers 0 --runtime.device cpu --runtime.log-every 1 --total-batch 4 --device-batch 2"
DENSE = f"{LITTLE} --model.weights None --optim.warmup-steps 1"
RUNS = {
    "classifier": ["train", "quickstart", *TINY, "--epochs", "1"],
    "labels": ["train", "small/scratch", *SCRATCH, "--epochs", "4", "--data", "{labels}"],
    "detector": (
        f"train small/detect --data {{shapes}} {DENSE} --model mask_rcnn_convnext_atto --epochs 2 --eval-every 2 "
        "--optim.milestones 1 --augment.short-sides 64 96 --augment.no-random-crop --test-short 64 --test-long 96 "
        "--rpn-samples 32 --roi-samples 16"
    ).split(),
    "segmenter": (
        f"train small/segment --data {{regions}} {DENSE} --model upernet_convnext_atto --steps 20 --eval-every 20 "
        "--model.channels 32 --model.auxiliary-channels 16 --augment.short 64 --augment.long 256 --augment.crop 64 "
        "--reduce-zero-label True"
    ).split(),
}
SHOWN = {
    "classifier": ["Training images after the transforms", "The surest mistakes", "The least sure hits", "Calibration"],
    "labels": [
        "before Mixup and CutMix",
        "The least sure hits",
        "pairs of an image and a class",
        "thresholds were chosen",
    ],
    "detector": ["Training images after the transforms", "Ground truth, and what was found", "triangle"],
    "segmenter": [
        "Training images after the transforms",
        "Ground truth, and what was predicted",
        "% of the pixels agree",
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw_classes(folder / "striped", {"across": 30, "down": 30})
    names = [(kind, i) for kind in ("across", "down") for i in range(30)]
    rows = [f"{kind}/{i}.png,{int(kind == 'across')},{int(kind == 'down' or i % 3 == 0)}" for kind, i in names]
    (folder / "striped" / "labels.csv").write_text("\n".join(["file,across,down", *rows]) + "\n")
    return {
        "labels": folder / "striped" / "labels.csv",
        "shapes": write_shapes(folder / "shapes", images=8, val_images=3, size=96),
        "regions": write_shapes_semantic(folder / "regions", images=8, val_images=3, size=96),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_the_page_of_every_kind_of_run(kind, data, tmp_path, capsys):
    """Trained, evaluated, reported and drawn; with CONVNEXT_SCREENSHOTS=FOLDER the pictures stay there, to be looked at."""
    folder = tmp_path / "run"
    argv = [word.format(**data) for word in RUNS[kind]]
    assert command([*argv, "--out", str(folder)]) == 0
    assert command(["evaluate", str(folder)]) == 0
    assert command(["report", "run", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert [words for words in (*SHOWN[kind], "nearest recipe, ", "images a second") if words not in text] == []
    assert len(text.encode()) < 5_000_000
    if kind == "classifier":
        written = json.loads((folder / "evaluation" / "evaluation.json").read_text())
        kept = pq.read_table(folder / "evaluation" / "predictions.parquet")
        pairs = zip(kept["said"].to_pylist(), kept["truth"].to_pylist(), strict=True)
        top1 = 100 * np.mean([one == other for one, other in pairs])
        assert top1 == pytest.approx(written["results"]["best"]["top1"])
        assert written["calibration"]["best"]["ece"] > 0
    if not PROGRAM:
        pytest.skip("needs Chromium (apt-get install chromium)")
    kept_at = Path(os.environ.get("CONVNEXT_SCREENSHOTS", tmp_path))
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            browser.open((folder / "report.html").as_uri())
            browser.screenshot(kept_at / f"report-{kind}-{width}.png", width, 900)
            assert browser.value("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
            broken = "[...document.images].filter(image => !image.naturalWidth).length"
            assert browser.value(broken) == 0
        urls = [each["request"]["url"] for each in browser.seen("Network.requestWillBeSent")]
        assert [url for url in urls if not url.startswith(("file:", "data:", "about:"))] == []
        assert [told for told in browser.seen("Log.entryAdded") if told["entry"]["level"] == "error"] == []
    with Image.open(kept_at / f"report-{kind}-1280.png") as drawn:
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 1000, "curves and pictures are drawn"
