"""`convnext data speed`: parts and whole of the loading, beside timm and torchvision."""

import json
from itertools import count

from convnext.benchmark.loading import measure
from convnext.cli.main import run
from pictures import draw_classes


def test_every_work_is_visited_in_turn_and_the_first_round_is_not_counted():
    ticks, visits = count(), []
    works = {name: lambda files, name=name: visits.append(name) for name in "ab"}
    rows = measure(works, [b"", b""], 3, lambda: next(ticks))
    assert "".join(visits) == "abababab"
    assert rows["a"]["milliseconds"]["p50"] == 500  # one tick for two images
    assert rows["a"]["images_per_second"] == 2


def test_speed_of_ones_own_images(tmp_path, capsys):
    data = draw_classes(tmp_path / "data", {"across": 4, "down": 4}, size=24)
    out = tmp_path / "speed.json"
    argv = ["data", "speed", str(data), "--images", "3", "--rounds", "1", "--image-size", "48", "--out", str(out)]
    assert run(argv) == 0
    assert "ours, training" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert {"timm, training", "ours, training, cache warm", "torchvision, evaluation", "ours, part: resize"} <= set(
        rows
    )
    assert all(row["images_per_second"] > 0 for row in rows.values())
    assert run(argv) == 2
    assert run(["data", "speed", "digits"]) == 2
    assert run(["data", "speed", "--recipe", "coco/mask-tiny"]) == 2
