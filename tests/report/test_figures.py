"""The figures: files of the expected size that show the data, and errors that say what to do."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from convnext.errors import ConvNextError
from convnext.paper import ROADMAPS, TABLE1
from convnext.report import style
from convnext.report.confusion import draw_confusion
from convnext.report.curves import draw_curves, smooth
from convnext.report.figure1 import draw_figure1
from convnext.report.metrics import read_metrics
from convnext.report.roadmap import draw_roadmap, measure


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def size(path) -> tuple[int, int]:
    """Width and height in inches at the figures' resolution."""
    with Image.open(path) as image:
        return image.width / style.DPI, image.height / style.DPI


def write_run(run, records, name="quickstart"):
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps({"name": name}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def train_records(steps=40, rate=800.0):
    return [
        {"kind": "train", "step": s, "epoch": s / 20, "loss": 2 / s, "lr": 1e-3 / s, "images_per_second": rate}
        for s in range(1, steps + 1)
    ]


def eval_records(top1=90.0, weights=("raw", "ema")):
    return [
        {"kind": "eval", "step": s, "epoch": s / 20}
        | {f"{w}/{m}": v for w in weights for m, v in (("loss", 1.0), ("top1", top1 + s / 20), ("top5", 99.0))}
        for s in (20, 40)
    ]


def test_imports_no_torch():
    modules = ["curves", "confusion", "figure1", "roadmap", "table"]
    code = "import sys; " + "".join(f"import convnext.report.{m}; " for m in modules) + "print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_every_family_of_table1_has_a_color():
    assert {row.family for row in TABLE1} <= style.FAMILIES.keys()


def test_curves(tmp_path):
    first = draw_curves(write_run(tmp_path / "a", train_records() + eval_records()))
    assert first == tmp_path / "a" / "curves.png"
    assert size(first) == (11, 6.3)
    assert pixels(first).std() > 5
    other = draw_curves(write_run(tmp_path / "b", train_records() + eval_records(top1=50.0)))
    assert not np.array_equal(pixels(first), pixels(other))


def test_curves_without_an_evaluation_yet(tmp_path):
    assert size(draw_curves(write_run(tmp_path, train_records(steps=1)))) == (11, 6.3)


def test_curves_of_evaluations_alone_with_metrics_of_another_task(tmp_path):
    records = [{"kind": "eval", "step": s, "epoch": 1, "box/AP": 40.0 + s, "mask/AP": None} for s in (1, 2)]
    assert size(draw_curves(write_run(tmp_path, records))) == (11, 4)


def test_curves_of_a_training_without_a_loss(tmp_path):
    records = [{"kind": "train", "step": s, "epoch": 0.0, "lr": 0.1, "top1": float(s)} for s in (1, 2)]
    assert size(draw_curves(write_run(tmp_path, records))) == (11, 4)


def test_a_torn_line_and_a_loss_that_is_not_finite_change_nothing_else(tmp_path):
    records = train_records()
    records[7]["loss"] = float("nan")
    run = write_run(tmp_path, records)
    before = pixels(draw_curves(run))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 41, "lo')
    assert np.array_equal(pixels(draw_curves(run)), before)


def test_steps_written_again_after_a_kill_count_once(tmp_path):
    run = write_run(tmp_path, [*train_records(40), *train_records(30, rate=5.0)])
    train = read_metrics(run)["train"]
    assert [r["step"] for r in train] == list(range(1, 41))
    assert [r["images_per_second"] for r in train] == [5.0] * 30 + [800.0] * 10


def test_curves_say_what_to_do_without_metrics(tmp_path):
    with pytest.raises(ConvNextError, match="Give the folder of a run"):
        draw_curves(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"torn')
    with pytest.raises(ConvNextError, match="no metrics yet"):
        draw_curves(tmp_path)


def test_smooth_keeps_the_level_and_leaves_out_what_is_not_finite():
    y = np.full(400, 3.0)
    y[[0, 100, 399]] = np.nan
    np.testing.assert_allclose(smooth(y), 3.0)
    assert np.isnan(smooth(np.array([np.nan]))).all()
    assert smooth(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("k", "inches"), [(2, (5.2, 4.2)), (10, (8.5, 7.5)), (100, (13.5, 9.5)), (1000, (13.5, 9.5))])
def test_confusion(tmp_path, k, inches):
    counts = np.eye(k, dtype=int) * 9
    path = draw_confusion(counts, [f"class {i}" for i in range(k)], tmp_path / "new" / "confusion.png")
    assert size(path) == pytest.approx(inches, abs=0.01)
    assert pixels(path).std() > 5


def test_confusion_shows_its_counts(tmp_path):
    counts = np.eye(3, dtype=int) * 9
    before = pixels(draw_confusion(counts, "abc", tmp_path / "a.png"))
    counts[1, 0] = 7
    assert not np.array_equal(pixels(draw_confusion(counts, "abc", tmp_path / "b.png")), before)


def test_confusion_of_nothing_is_drawn_and_of_another_shape_refused(tmp_path):
    assert draw_confusion(np.zeros((3, 3), int), "abc", tmp_path / "empty.png").is_file()
    with pytest.raises(ConvNextError, match=r"\(3, 2\) does not fit 3"):
        draw_confusion(np.zeros((3, 2), int), "abc", tmp_path / "bad.png")


def test_figure1_has_three_axes(tmp_path):
    drawn = [draw_figure1(tmp_path / f"{x}.png", x) for x in ("macs", "params", "throughput")]
    assert {size(path) for path in drawn} == {(12.5, 6.2)}
    assert len({path.read_bytes() for path in drawn}) == 3
    with pytest.raises(ConvNextError, match="choose macs, params, throughput"):
        draw_figure1(tmp_path / "x.png", "flops")


def test_roadmap_of_the_paper_alone(tmp_path):
    assert size(draw_roadmap(tmp_path / "figure2.png")) == (9, 8.6)


def test_roadmap_puts_runs_beside_it(tmp_path):
    runs = [
        write_run(tmp_path / f"{key}-{seed}", eval_records(top1=80.0 + seed, weights=("raw",)), f"roadmap/{key}")
        for key, seeds in (("resnet50-resnet", 3), ("resnet200-separate-downsampling", 1))
        for seed in range(seeds)
    ]
    bars = measure(runs)
    # the last evaluation is at step 40, two above the start
    assert bars["resnet50", "resnet"].value == 83.0
    assert bars["resnet50", "resnet"].std == 1.0
    assert bars["resnet200", "separate-downsampling"].std is None
    assert size(draw_roadmap(tmp_path / "figure2.png", runs)) == (14, 8.6)


def test_roadmap_takes_every_step_of_both_regimes(tmp_path):
    names = [f"{regime}-{step.key}" for regime, roadmap in ROADMAPS.items() for step in roadmap.steps]
    runs = [write_run(tmp_path / name, eval_records(weights=("raw",)), f"roadmap/{name}") for name in names]
    assert len(measure(runs)) == len(names) == 32


def test_roadmap_refuses_other_runs_and_unfinished_ones(tmp_path):
    with pytest.raises(ConvNextError, match="not of a roadmap recipe"):
        measure([write_run(tmp_path / "a", eval_records(), "quickstart")])
    with pytest.raises(ConvNextError, match="Did you mean 'roadmap/resnet50-kernel-9'"):
        measure([write_run(tmp_path / "b", eval_records(), "roadmap/resnet50-kernel9")])
    with pytest.raises(ConvNextError, match="Let it finish"):
        measure([write_run(tmp_path / "c", train_records(), "roadmap/resnet50-width")])
    with pytest.raises(ConvNextError, match=r"config\.json does not exist"):
        measure([tmp_path])
