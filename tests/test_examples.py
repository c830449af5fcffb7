"""The examples run: every script with tiny options, and the code of the notebook from its first cell to its last."""

import json
import runpy
from pathlib import Path

import pytest

import convnext

EXAMPLES = Path(__file__).parents[1] / "examples"
OPTIONS = {
    "train_on_a_folder.py": ["--epochs", "1", "--count", "12", "--workers", "0"],
    "predict_array.py": ["runs/tiny", "--count", "2"],
    "own_detector.py": ["--steps", "1", "--side", "64"],
    "reproduce_roadmap_step.py": ["depthwise", "--tiny"],
}
SHOWN = {
    "train_on_a_folder.py": ["run of small/scratch", "<classifier convnext_atto, 3 classes", "disc"],
    "predict_array.py": ["frame 1", "'predictions'"],
    "own_detector.py": ["loss_rpn_box_reg"],
    "reproduce_roadmap_step.py": ["paper, ImageNet-1K: 78.28 %", "this run, digits: "],
}


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_run():
    """A run on digits that takes a second."""
    model = {"name": "roadmap_resnet50_separate-downsampling", "width_mult": 0.125, "depth_mult": 0.34}
    return convnext.train("quickstart", out="runs/tiny", epochs=1, model=model, quiet=True)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_script(name, in_empty_folder, monkeypatch, capsys):
    if name == "predict_array.py":
        small_run()
    monkeypatch.setattr("sys.argv", [name, *OPTIONS[name]])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert [words for words in SHOWN[name] if words not in printed] == []


def test_every_script_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(OPTIONS)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_script_says_how_it_is_run(path):
    docstring = path.read_text().split('"""')[1]
    assert f"examples/{path.name}" in docstring


def cells(notebook: dict) -> list[str]:
    """The source of every code cell."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_notebook(in_empty_folder, capsys):
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text())
    assert notebook["nbformat"] == 4
    assert [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["outputs"]] == []
    names: dict = {"__name__": "__main__"}
    for number, source in enumerate(cells(notebook)):
        exec(compile(source, f"cell {number}", "exec"), names)
    assert names["result"]["top1"] > 40, "ten classes: ten percent is chance"
    assert names["result"].trained_on == 0
    shown = [repr(names[each]) for each in ("run", "model", "result", "report")] + [repr(names["answers"][0])]
    assert max(map(len, shown)) < 160, "a name typed in a terminal gives a line"
    assert shown[4].startswith("<Classification of image: ")
    assert names["drawn"].size[0] == 384
    assert names["exported"].predict(names["images"][0]).top(1)[0].label == names["answers"][0].top(1)[0].label
    assert "held-out" in capsys.readouterr().out
