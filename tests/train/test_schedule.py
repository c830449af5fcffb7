from pathlib import Path

import pytest

from convnext.train.schedule import cosine

ORACLE = Path(__file__).parents[1] / "oracles" / "lr_base4e-3_min1e-6_epochs30_steps13_warmup2.txt"


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
