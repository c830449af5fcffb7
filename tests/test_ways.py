"""The ways through the files that docs/map.md describes are those that a command takes."""

import re
import sys
from inspect import CO_OPTIMIZED
from pathlib import Path

import pytest

from convnext.cli.main import run
from pictures import draw_classes

ROOT = Path(__file__).parents[1]


def way(verb: str) -> list[str]:
    """The files of the map's list for a verb, in its order."""
    text = (ROOT / "docs/map.md").read_text().split(f"through `{verb}`\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d+\. .*$", text, re.MULTILINE)
    return [path for step in steps for path in re.findall(r"`(src/[\w/]+\.py)`", step)]


def importing(frame) -> bool:
    """True inside an import statement."""
    while frame:
        if frame.f_code.co_name == "_find_and_load":
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def entered(monkeypatch):
    """Runs a command; gives the files of the package in the order in which their functions are first called."""

    def follow(argv: list[str]) -> list[str]:
        seen: dict[str, None] = {}

        def note(frame, event, _):
            name = frame.f_code.co_filename
            if event != "call" or "/src/convnext/" not in name or not frame.f_code.co_flags & CO_OPTIMIZED:
                return
            path = "src/convnext/" + name.split("/src/convnext/")[1]
            if path not in seen and not importing(frame):
                seen[path] = None

        sys.settrace(note)  # of calls only, since it returns None
        try:
            assert run(argv) == 0
        finally:
            sys.settrace(None)
        return list(seen)

    return follow


def test_the_ways_of_the_map_are_taken(entered, tmp_path, capsys):
    striped = draw_classes(tmp_path / "striped", {"across": 20, "down": 20})
    options = (
        "--image-size 16 --epochs 1 --total-batch 16 --device-batch 16 --runtime.workers 0 --runtime.device cpu".split()
    )
    train = ["train", "small/scratch", *options, "--data", str(striped), "--out", str(tmp_path / "run")]
    predict = ["predict", str(tmp_path / "run"), str(striped / "across"), "--device", "cpu"]
    for argv in (train, predict):
        listed, taken = way(argv[0]), entered(argv)
        assert len(listed) > 15
        assert len(listed) == len(set(listed)), "a file stands once"
        assert [path for path in taken if path in listed] == listed
