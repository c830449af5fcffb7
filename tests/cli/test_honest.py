"""Numbers that people take for what they say: on which images, how sure, and answers to what they type wrongly."""

import json
import re
import subprocess
import sys

import pytest

from convnext import create_model, recipes
from convnext.cli.main import run
from convnext.cli.parsing import option_names
from convnext.cli.train import Arguments
from pictures import SCRATCH, draw_classes


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Images of two classes, and a run on nine tenths of them."""
    root = tmp_path_factory.mktemp("stripes")
    data = draw_classes(root / "data", {"across": 60, "down": 60})
    options = ["--data", str(data), "--out", str(root / "run"), "--epochs", "1"]
    assert run(["train", "small/scratch", *SCRATCH, *options]) == 0
    return data, root / "run"


def test_robustness_on_a_runs_own_data_means_its_held_out_part(stripes, tmp_path, capsys):
    data, folder = stripes
    options = ["--corruptions", "fog", "--severities", "1", "--workers", "0", "--device", "cpu"]
    assert run(["robustness", str(folder), "--corrupt", str(data), *options, "--out", str(tmp_path)]) == 0
    (model,) = json.loads((tmp_path / "robustness.json").read_text())["models"].values()
    assert {unit["images"] for unit in model["units"]} == {12}, "a tenth of 120 images was held out"
    assert f"12 images of {data} (held out)" in capsys.readouterr().out
    moved = data.rename(data.with_name("moved"))  # known by its content
    try:
        assert run(["robustness", str(folder), "--corrupt", str(moved), *options, "--out", str(tmp_path / "b")]) == 0
        assert f"12 images of {moved} (held out)" in capsys.readouterr().out
    finally:
        moved.rename(data)


def test_best_of_few_images_says_how_sure_it_is(stripes, capsys):
    _, folder = stripes
    assert run(["evaluate", str(folder), "--workers", "0", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"best.*\d+\.\d to +\d+\.\d", said)
    assert "top-5" not in said, "of two classes it is always right"
    assert "12 images of" in said
    assert "held out" in said
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert "raw/top1" in last
    assert "raw/top5" not in last


def test_options_of_other_tools_are_answered_with_ours(capsys):
    cases = {
        "train small/finetune --lr 1e-4": "--optim.lr",
        "train small/finetune --wd=0.1": "--optim.weight-decay",
        "train small/finetune --batch-size 4": "--total-batch",
        "train small/finetune --imgsz 224": "--image-size",
        "predict run x.jpg --score 0.5": "--threshold",
        "predict run x.jpg --conf 0.5": "--threshold",
        "predict run x.jpg --batch-size 8": "--batch",
        "evaluate run --img-size 224": "--image-size",
    }
    for command, ours in cases.items():
        assert run(command.split()) == 2, command
        assert f"here it is {ours}." in capsys.readouterr().err, command


def test_option_names_are_those_of_help():
    names = option_names(Arguments(recipes.get("small/finetune")))
    assert {"--optim.lr", "--total-batch", "--model.name", "--out"} <= names
    assert not {"--lr", "--name", "--batch"} & names


MISTAKES = (
    "trian",
    "train small/finetun",
    "train small/finetune --data nowhere",
    "train small/finetune --batch-size 3",
    "train small/finetune --data . --model.weights convnext_tinny.in22k",
    "evaluate nothing",
    "evaluate convnext_tiny.in1k --data nowhere",
    "predict nothing pyproject.toml",
    "export nothing",
    "robustness nothing --corrupt .",
)


def test_mistakes_are_answered_before_anything_slow_is_imported(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    script = (
        "import sys\nfrom convnext.cli.main import run\n"
        "for command in sys.argv[1:]:\n"
        "    code = run(command.split())\n"
        "    slow = {'torch', 'torchvision', 'timm', 'sklearn', 'matplotlib', 'tensorboard', 'pyarrow'} & {*sys.modules}\n"
        "    assert code == 2 and not slow, (command, code, slow)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *MISTAKES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("convnext: ") == len(MISTAKES)


def test_weights_that_cannot_be_had_say_how_to_start_without(striped, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVNEXT_MIRROR", str(tmp_path))
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    options = ["--model.weights", "convnext_tiny.in22k", "--data", str(striped), "--total-batch", "32"]
    assert run(["train", "small/finetune", *options, "--out", str(tmp_path / "run")]) == 2
    assert f"convnext train small/scratch --data {striped}" in capsys.readouterr().err


def test_a_checkpoint_for_other_channels_says_that_it_was_adapted(tmp_path):
    from convnext import save_weights

    save_weights(create_model("convnext_atto", num_classes=3), tmp_path / "rgb.safetensors")
    with pytest.warns(UserWarning, match="channel"):
        create_model("convnext_atto", weights=str(tmp_path / "rgb.safetensors"), in_chans=1)


def test_axes_end_at_100_percent_and_ticks_are_whole_epochs(tmp_path):
    from matplotlib.figure import Figure

    from convnext.report import curves, style

    with (tmp_path / "metrics.jsonl").open("w") as file:
        for epoch in (1, 2, 3):
            lines = (
                {"kind": "train", "loss": 1 / epoch},
                {"kind": "eval", "raw/loss": 1 / epoch, "raw/top1": 97.0 + epoch, "ema/top1": 80.0 + epoch},
            )
            file.writelines(json.dumps({"step": 10 * epoch, "epoch": epoch, **line}) + "\n" for line in lines)
    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", lambda figure, path: drawn.append(figure) or path)
        curves.draw_curves(tmp_path)
    drawn[0].draw_without_rendering()
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    accuracy = panels["top-1 accuracy (%)"]
    assert accuracy.get_ylim()[1] == 100
    assert accuracy.get_ylim()[0] <= 81, "every point is on the panel, those of the EMA too"
    for axes in panels.values():
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
        if legend := axes.get_legend():
            assert legend.get_window_extent().y1 <= axes.get_window_extent().y0, "a legend over no line"
