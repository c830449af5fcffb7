"""A small run that the commands are tried on, and pictures of two classes that anybody can tell apart."""

from pathlib import Path

import pytest

from convnext.cli.main import run
from pictures import TINY, draw_classes


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A finished run on digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "quickstart", *TINY, "--epochs", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture
def striped(tmp_path) -> Path:
    """A folder with one folder per class, 60 images each."""
    return draw_classes(tmp_path / "striped", {"across": 60, "down": 60})
