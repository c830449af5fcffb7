"""The scripts that measure the data path, on a few small images; what they print of speed means nothing here."""

import json
from types import SimpleNamespace

import pytest

from pictures import TINY, draw_classes
from scripts import SCRIPTS, load, run


def test_decoders_give_the_same_crops(tmp_path):
    result = run("decoders", tmp_path / "x.json", "--small", "--crops", "2", "--rounds", "1")
    assert set(result["sizes"]) == {"62x46", "500x375"}
    for rows in result["sizes"].values():
        assert {"ours", "Pillow, full", "Pillow, draft"} <= set(rows)
        assert rows["ours"]["to_ours"] == 1
        assert rows["Pillow, full"]["difference"] == 0
        assert all(row["difference"] < 5 and row["images_per_second"] > 0 for row in rows.values())
    assert not set(result["left_out"]) - {"simplejpeg", "pyvips", "opencv", "torchvision", "torchcodec"}


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_is_counted_as_training_counts_it():
    waiting, clock = load("data_path")["waiting"], Clock()
    waiting.__globals__["time"] = clock
    batch = SimpleNamespace(indices=[0] * 4, images=SimpleNamespace(clone=lambda: clock.sleep(0.25)))

    def slow():
        while True:
            clock.sleep(0.5)
            yield batch

    assert waiting(slow(), 5, 1.5) == (0.25, 2.0)
    assert waiting(iter([batch] * 5), 5, 1.0) == (0.0, 4.0), "a copy is a part of the step"
    assert waiting(slow(), 5, 0.0) == (pytest.approx(2 / 3), pytest.approx(16 / 3))


@pytest.mark.slow  # some seconds, in which loaders start
def test_data_path(tmp_path):
    small = [
        "--images",
        "24",
        "--batch",
        "4",
        "--steps",
        "3",
        "--rounds",
        "1",
        "--workers",
        "1",
        "--pixels",
        "60",
        "40",
    ]
    result = run("data_path", tmp_path / "x.json", *small, "--folder", str(tmp_path))
    assert set(result["epochs"]) == {"off", "ram", "disk"}
    assert all(row["first"] > 0 and row["second"] > 0 for row in result["epochs"].values())
    assert set(result["wait"]) == {"8 bits", "8 bits, ram", "float32", "float32, ram"}
    assert all(0 <= row["data_wait"] <= 1 and row["possible"] > 0 for row in result["wait"].values())
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]


@pytest.mark.slow  # three processes import everything and train
def test_accuracy_before_compares_two_trees_and_goes_on(tmp_path):
    """This tree with itself: the same bits, so no difference."""
    draw_classes(tmp_path / "data/train", {"across": 12, "down": 12}, size=32)
    draw_classes(tmp_path / "data/val", {"across": 4, "down": 4}, size=32)
    more = [f"{name.removeprefix('--')}={value}" for name, value in zip(TINY[::2], TINY[1::2], strict=True)]
    small = ["--data", str(tmp_path / "data"), "--before", str(SCRIPTS.parent / "src"), "--minutes", "0.0001"]
    small += ["--seeds", "3", "--enlarge", "4", "--batch", "8", "--workers", "0", "--runs", str(tmp_path / "runs")]
    result = run("accuracy_before", tmp_path / "x.json", *small, "--more", *more)
    assert result["difference"] == {"raw": 0, "ema": 0}
    assert set(result["top1"]["now"]) == {"3"}
    assert result["epochs"] == 1
    assert len(list((tmp_path / "runs/images/train/across").glob("*.jpg"))) == 12
    before = (tmp_path / "runs/now-3/metrics.jsonl").read_text()
    assert run("accuracy_before", tmp_path / "y.json", *small, "--more", *more)["top1"] == result["top1"]
    assert (tmp_path / "runs/now-3/metrics.jsonl").read_text() == before
    assert json.loads((tmp_path / "runs/now-3/config.json").read_text())["seed"] == 3
