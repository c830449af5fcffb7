"""The page about a run: what it shows, what it never loads or trusts, and that a browser draws it."""

import json
import re
import shutil
import subprocess
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convnext.cli.main import run as command
from convnext.errors import ConvNextError
from convnext.report.calibration import calibration
from convnext.report.run import write_report
from pictures import TINY

HOSTILE = "<script>alert(1)</script>\x1b[31m & \udcff"


def jpeg() -> bytes:
    stream = BytesIO()
    Image.effect_noise((128, 96), 80).save(stream, "JPEG")
    return stream.getvalue()


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
    generator = np.random.default_rng(0)
    truth, said = generator.integers(0, 40, 200), generator.integers(0, 40, 200)
    said[:150] = truth[:150]
    table = {
        "image": [f"{i}.jpg" for i in range(200)],
        "truth": [classes[k].encode("utf-8", "replace").decode() for k in truth],
        "said": [classes[k].encode("utf-8", "replace").decode() for k in said],
        "confidence": generator.random(200),
        "truth_probability": generator.random(200),
        "picture": pa.array([jpeg() if i % 10 == 0 else None for i in range(200)], pa.binary()),
    }
    pq.write_table(pa.table(table), folder / "evaluation" / "predictions.parquet")
    evaluation = {
        "data": "photos (held out)",
        "images": 200,
        "precision": "fp32",
        "results": {"best": {"top1": 75.0, "loss": 0.4}},
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
    text = write_report(finished, [("optim.lr", 0.002, 0.001)]).read_text()
    words = "71.25|optim.lr|0.001|Expected calibration error|class 38|convnext train quickstart|2.15|10 more"
    assert [word for word in words.split("|") if word not in text] == []
    assert text.count('src="data:image/jpeg') == 20
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
    (finished / "evaluation" / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConvNextError, match="Evaluate again"):
        write_report(finished)


def test_calibration_is_counted_by_hand():
    confidence = np.array([0.05, 0.31, 0.32, 0.99, 1.0, 0.97])
    hit = np.array([False, True, False, True, True, False])
    found = calibration(confidence, hit)
    assert (found.count[0], found.count[4], found.count[14]) == (1, 2, 3)
    by_hand = (1 * 0.05 + 2 * abs(0.5 - 0.315) + 3 * abs(2 / 3 - 2.96 / 3)) / 6
    assert found.error == pytest.approx(by_hand)
    assert calibration(np.full(10, 0.7), np.arange(10) < 7).error == pytest.approx(0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_a_browser_draws_the_page(finished, tmp_path):
    page = write_report(finished)
    picture = tmp_path / "page.png"
    options = (
        "--headless --no-sandbox --disable-gpu --window-size=1000,3000 --host-resolver-rules=MAP * ~NOTFOUND".split(
            " ", 4
        )
    )
    subprocess.run(
        ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(picture) as drawn:
        colours = drawn.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 1000, "curves and pictures are drawn"


@pytest.mark.slow
def test_the_command_after_an_evaluation(tmp_path, capsys):
    folder = tmp_path / "run"
    assert command(["train", "quickstart", *TINY, "--epochs", "1", "--out", str(folder)]) == 0
    assert command(["evaluate", str(folder)]) == 0
    assert command(["report", "run", str(folder)]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (folder / "report.html").read_text()
    assert "The least sure hits" in text
    assert "recipe quickstart" in text
    written = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    kept = pq.read_table(folder / "evaluation" / "predictions.parquet")
    hits = np.mean(
        [one == other for one, other in zip(kept["said"].to_pylist(), kept["truth"].to_pylist(), strict=True)]
    )
    assert 100 * hits == pytest.approx(written["results"]["best"]["top1"])
