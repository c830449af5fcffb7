"""Real images from a table to a report and an exported file: the solar cells of `elpv-dataset`, if it is installed."""

import json
import math
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from convnext.cli.main import run
from pictures import TINY

pytestmark = pytest.mark.slow

TRAINING = [
    "small/scratch", *TINY, "--image-size", "48", "--model.stem-stride", "2", "--total-batch", "64", "--device-batch", "64",
    "--epochs", "4", "--eval-every", "4", "--runtime.cache", "ram", "--augment.rand-augment", "None", "--augment.mixup", "0",
    "--augment.cutmix", "0", "--augment.random-erasing", "0", "--augment.label-smoothing", "0", "--augment.crop-scale", "0.6", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> Path:
    """The table: path, probability of a defect and kind of cell of 2,624 images, without a header."""
    found = find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        pytest.skip("elpv-dataset is not installed: uv pip install elpv-dataset")
    table = Path(found.submodule_search_locations[0]) / "data" / "labels.csv"
    if not table.is_file():
        pytest.skip(f"elpv-dataset has no {table}")
    return table


def test_from_the_table_to_a_report_and_a_file(cells, tmp_path, capsys):
    data, out = ["--data", str(cells), "--read.label-columns", "2"], tmp_path / "cells"
    assert run(["data", "check", str(cells), "--read.label-columns", "2", "--out", str(tmp_path / "check")]) == 0
    assert "2,360 to train on, 264 held out, 4 classes" in " ".join(capsys.readouterr().out.split())
    assert run(["train", *TRAINING, *data, "--out", str(out)]) == 0
    assert run(["evaluate", str(out), "--out", str(tmp_path / "evaluated")]) == 0
    assert run(["report", "run", str(out)]) == 0
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    assert run(["export", str(out), "--format", "onnx"]) == 0
    assert run(["evaluate", str(out / "best.onnx"), "--out", str(tmp_path / "exported")]) == 0
    results = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("evaluated", "exported")]
    trained, exported = (next(iter(each["results"].values())) for each in results)
    assert results[0]["images"] == results[1]["images"] == 264
    assert exported["top1"] == trained["top1"]
    shares = [count / 2624 for count in Counter(line.split()[1] for line in cells.read_text().splitlines()).values()]
    assert trained["loss"] < -sum(
        share * math.log(share) for share in shares
    )  # what knowing the shares alone would give
