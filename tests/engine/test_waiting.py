"""What is said when training waits for its data."""

import pytest

from convnext.engine.waiting import advice


def test_the_remedies_are_named():
    text = advice(0.43, "cuda", 2, "photos")
    assert "43% of the time" in text
    assert "--runtime.workers, 2 now" in text
    assert "--runtime.cache ram or disk" in text
    assert "`convnext data speed photos`" in text
    assert "all but one now" in advice(0.43, "cuda", None, "photos")


@pytest.mark.parametrize(("share", "device"), [(0.19, "cuda"), (0.9, "cpu")])
def test_nothing_is_said_where_nothing_helps(share, device):
    assert advice(share, device, None, "photos") == ""
