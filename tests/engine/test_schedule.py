from pathlib import Path

import pytest

from convnext.engine.schedule import learning_rate
from convnext.recipes.optim import Schedule

ORACLE = Path(__file__).parents[1] / "oracles" / "lr_base4e-3_min1e-6_epochs30_steps13_warmup2.txt"


def cosine(step, total_steps, warmup_steps, lr, min_lr):
    return learning_rate(Schedule("cosine", lr, total_steps, warmup_steps, min_lr), step)


def test_equals_the_reference_at_every_step():
    expected = [float(line) for line in ORACLE.read_text().split()]
    got = [cosine(step, 30 * 13, 2 * 13, 4e-3, 1e-6) for step in range(30 * 13)]
    assert len(expected) == len(got)
    assert got == pytest.approx(expected, abs=1e-15)


def test_ends():
    assert cosine(0, 100, 10, 1.0, 0.1) == 0.0
    assert cosine(9, 100, 10, 1.0, 0.1) == 1.0  # the warm-up reaches the peak
    assert cosine(10, 100, 10, 1.0, 0.1) == 1.0
    assert cosine(0, 100, 0, 1.0, 0.1) == 1.0  # no warm-up
    assert cosine(0, 100, 1, 1.0, 0.1) == 1.0  # a warm-up of one step is no warm-up
    assert 0.1 < cosine(99, 100, 10, 1.0, 0.1) < 0.101


def test_coco():
    """1x is 12 epochs; the paper's 36 epochs have their milestones after 27 and 33 (Section A.3)."""
    schedule = Schedule("step", 2e-4, 36 * 1000, 500, warmup_ratio=1e-3, milestones=(27_000, 33_000))
    assert learning_rate(schedule, 0) == pytest.approx(2e-7)
    assert learning_rate(schedule, 250) == pytest.approx(2e-4 * (0.5 + 0.5 * 1e-3))
    assert learning_rate(schedule, 500) == learning_rate(schedule, 26_999) == 2e-4
    assert learning_rate(schedule, 27_000) == pytest.approx(2e-5)
    assert learning_rate(schedule, 35_999) == pytest.approx(2e-6)


def test_ade20k():
    schedule = Schedule("poly", 1e-4, 160_000, 1500, warmup_ratio=1e-6)
    assert learning_rate(schedule, 0) == pytest.approx(1e-10)
    for step in (400, 1499):
        closed_form = 1e-4 * (1 - step / 160_000) * (1 - (1 - step / 1500) * (1 - 1e-6))
        assert learning_rate(schedule, step) == pytest.approx(closed_form)
    for step in (1500, 80_000, 120_000, 159_999):
        assert learning_rate(schedule, step) == pytest.approx(1e-4 * (160_000 - step) / 160_000)
    assert learning_rate(schedule, 159_999) == pytest.approx(1e-4 / 160_000)  # zero would be the step after the last
