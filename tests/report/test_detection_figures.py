"""Pictures with objects: what is drawn is where the objects are, and stays inside."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from convnext.report import detection, style
from convnext.report.detection import SMALLEST, color_of, draw_detections, draw_sample

NAMES = ["circle", "a class with a name that is much longer than the picture is wide", "cat"]


def grey(width=400, height=360):
    return Image.new("RGB", (width, height), (128, 128, 128))


def changed(drawn: Image.Image) -> np.ndarray:
    return (np.asarray(drawn) != 128).any(axis=2)


def plates(monkeypatch) -> list[list]:
    """The places of the name plates of each later call."""
    calls, tag = [], detection._tag

    def spy(draw, font, box, text, label, taken):
        if not taken:
            calls.append(taken)
        tag(draw, font, box, text, label, taken)

    monkeypatch.setattr(detection, "_tag", spy)
    return calls


def test_imports_no_torch():
    code = "import sys, convnext.report.detection; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_nothing_to_draw_leaves_the_picture():
    drawn = draw_detections(
        grey(), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros((0, 360, 400), bool), NAMES
    )
    assert not changed(drawn).any()


def test_a_box_is_drawn_around_its_pixels():
    drawn = changed(draw_detections(grey(), np.array([[100, 150, 300, 300]]), np.array([2]), names=NAMES))
    assert drawn[150:300, 100].all()
    assert drawn[150:300, 299].all()
    assert drawn[299, 100:300].all()
    assert not drawn[150:, :100].any()
    assert not drawn[:, 300:].any()
    assert not drawn[300:].any()
    assert not drawn[160:290, 110:290].any()


def test_masks_are_translucent_with_an_outline():
    mask = np.zeros((1, 360, 400), dtype=bool)
    mask[0, 200:300, 50:150] = True
    plain = np.asarray(draw_detections(grey(), np.array([[50, 200, 150, 300]]), np.array([0]), masks=mask)).astype(int)
    inside, rim, color = plain[250, 100], plain[250, 52], np.array(color_of(0))
    assert 0 < np.abs(inside - 128).sum() < np.abs(color - 128).sum()
    assert np.abs(rim - color).sum() <= np.abs(inside - color).sum()
    assert (plain[250, 160] == 128).all()
    empty = draw_detections(grey(), np.array([[50, 200, 150, 300]]), np.array([0]), masks=np.zeros_like(mask))
    assert (np.asarray(empty)[250, 100] == 128).all()


def test_colors_are_those_of_the_class_and_differ():
    assert color_of(3) == color_of(3)
    assert len({color_of(label) for label in range(80)}) == 80
    near = [sum(abs(a - b) for a, b in zip(color_of(k), color_of(k + 1), strict=True)) for k in range(79)]
    assert min(near) > 60


@pytest.mark.parametrize("size", [(7, 5), (64, 64), (400, 360), (3000, 2000), (50, 900)])
def test_names_stay_in_the_picture_at_any_size(size, monkeypatch):
    calls = plates(monkeypatch)
    width, height = size
    edges = np.array(
        [[0, 0, 3, 3], [width - 3, 0, width, 3], [0, height - 3, 3, height], [width - 3, height - 3, width, height]]
    )
    drawn = draw_detections(grey(*size), edges, np.array([0, 1, 2, 0]), np.array([1.0, 0.987, 0.5, 0.01]), names=NAMES)
    assert drawn.width % width == drawn.height % height == 0
    assert max(drawn.size) >= SMALLEST
    (places,) = calls
    assert len(places) == 4
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 <= drawn.width
        assert 0 <= y1 < y2 <= drawn.height
        assert y2 - y1 >= 11
    assert changed(drawn).any()


def test_plates_of_objects_in_one_place_do_not_cover_each_other(monkeypatch):
    calls = plates(monkeypatch)
    draw_detections(grey(), np.array([[100, 100, 300, 250]] * 4), np.array([0, 2, 0, 2]), names=NAMES)
    (places,) = calls
    assert all(detection._overlap(a, b) == 0 for k, a in enumerate(places) for b in places[:k])


def test_any_mode_and_no_names():
    drawn = draw_detections(Image.new("L", (400, 360), 128), np.array([[10, 50, 90, 90]]), np.array([79]))
    assert drawn.mode == "RGB"
    assert changed(drawn).any()


def test_sample(tmp_path):
    pairs = [
        (draw_detections(grey(), np.array([[100, 100, 300, 250]]), np.array([k]), names=NAMES), f"{k}.png")
        for k in range(3)
    ]
    path = draw_sample(iter(pairs * 2), tmp_path / "sheets" / "sample.png")
    with Image.open(path) as sheet:
        assert (sheet.width / style.DPI, sheet.height / style.DPI) == (13.6, 5.8)
        shown = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert all((shown == color_of(k)).all(axis=1).sum() > 100 for k in range(3))
