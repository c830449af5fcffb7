"""Every screen of the first minutes on a terminal of 80, 100 and 140 columns: nothing cut, nothing broken, nothing wrapped."""

import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from convnext.cli import main
from convnext.console import progress_bar, stderr
from pictures import TINY, draw_classes
from terminal import forked_on_terminal, on_terminal, widths

RUN = ["train", "quickstart", *TINY]


@widths
def test_lists_are_whole(width):
    from convnext import recipes
    from convnext.weights import catalog

    listed = on_terminal(["info", "recipes"], width)
    assert listed.code == 0
    assert not listed.too_long()
    words = set(listed.text.split())
    assert words >= set(recipes.recipes()), "every name is whole, so that it can be copied"
    assert width > 80 or "Not shown at 80 columns: model, px, batch, lr, drop-path." in listed.text
    released = on_terminal(["info", "catalog"], width)
    assert not released.too_long()
    assert set(released.text.split()) >= set(catalog.names())
    assert "miou 46.0, miou_ms 46.7" in released.text


@pytest.mark.slow
def test_counted_numbers_are_whole():
    counted = on_terminal(["info", "models", "cascade*tiny*"], 80)
    assert counted.code == 0
    assert not counted.too_long()
    assert "cascade_mask_rcnn_convnext_tiny" in counted.text.split()
    assert re.search(r"\s\d\d,\d{3},\d{3}\s", counted.text)
    assert re.search(r"\s\d{3}\.\d{3}(\s|$)", counted.text)


@widths
def test_the_table_before_a_run(width, trained, tmp_path):
    out = tmp_path / "a_folder_with_a_long_name" / "another_folder_with_a_long_name" / "the_run"
    plan = on_terminal([*RUN, "--dry-run", "--out", str(out)], width)
    assert plan.code == 0
    assert not plan.too_long()
    assert plan.lines[0].startswith("recipe           quickstart (")
    for label in ("steps per epoch", "total steps", "learning rate", "warm-up", "drop-path"):
        assert any(line.startswith(f"{label}  ") for line in plan.lines), label
    assert str(out) in "".join(line.strip() for line in plan.lines).replace("folder" + " " * 11, ""), (
        "a folder is whole"
    )


def test_a_run_shows_how_long_it_takes(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "2", "--total-batch", "128", "--runtime.log-every", "1"]
    screen = on_terminal([*RUN, *options, "--out", "run"], 80)
    assert screen.code == 0, screen.text
    assert not screen.too_long()
    bars = [line for line in screen.lines if line.startswith("epoch ") and "/22" in line]
    assert bars
    assert all("ETA" in line for line in bars)
    assert any(re.search(r"loss \d\.\d{4}", line) and re.search(r"ETA \d:\d\d:\d\d", line) for line in bars), bars
    evaluations = [i for i, line in enumerate(screen.lines) if line.startswith("eval ")]
    assert len(evaluations) == 2
    said = " ".join(screen.lines[evaluations[0] : evaluations[0] + 3])
    for metric in ("raw/loss", "raw/top1", "ema/loss", "ema/top1"):
        assert re.search(rf"{metric} \d+\.\d{{3}}", said), "each value beside its name"
    assert "Best: top-1" in screen.text
    commands = re.split(r"\s{2,}", screen.text.partition("Next:  ")[2].replace("\n", "  "))
    assert commands == ["convnext predict run IMAGES...", "convnext evaluate run", "convnext report curves run"]
    assert re.search(r"95 % confidence it is\s+\d+\.\d to\s+\d+\.\d %", screen.text.replace("\n", " "))


@widths
def test_the_tables_of_evaluate_and_predict(trained, tmp_path, width):
    screen = on_terminal(["evaluate", str(trained), "--workers", "0", "--out", str(tmp_path / "e")], width)
    assert screen.code == 0, screen.text
    assert not screen.too_long()
    assert any(line.startswith("best") for line in screen.lines)
    for metric in ("top1", "top5"):
        assert re.search(r"\d+\.\d{3}", screen.text), metric
    deep = tmp_path / "a_folder_of_pictures_with_a_long_name" / "and_a_folder_inside_it"
    draw_classes(deep, {"across": 2, "down": 1})
    screen = on_terminal(["predict", str(trained), str(deep)], width)
    assert screen.code == 0, screen.text
    assert not screen.too_long()
    for ending in ("across/0.png", "across/1.png", "down/0.png"):
        assert any(ending in line and line.endswith(" %") for line in screen.lines), "name and answer on one line"


def test_results_stay_in_their_file_while_a_bar_is_drawn(tmp_path):
    def work() -> int:
        err = stderr()
        with (
            open(tmp_path / "results", "w") as file,
            redirect_stdout(file),
            progress_bar("working", console=err) as bar,
        ):
            bar(1, 2)
            print('{"file": "1.jpg"}')
            err.print("2.jpg cannot be read")
        return 0

    screen = forked_on_terminal(work, 80, {})
    assert (tmp_path / "results").read_text() == '{"file": "1.jpg"}\n'
    assert [line for line in screen.shown if line] == ["2.jpg cannot be read"], "and the bar is wiped"
    assert any("1/2" in line for line in screen.lines)


def test_a_mistake_is_told_in_whole_words_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    screen = on_terminal(["evaluate", "runs/quickstrat"], 60)
    assert screen.code == 2
    assert not screen.too_long()
    assert " ".join(screen.lines) == (
        "convnext: There is no file or folder runs/quickstrat, and no such name in the catalog. Did you mean 'quickstart'?"
    )


def test_a_training_names_the_folder_and_the_model_that_are_not_there(tmp_path, monkeypatch, capsys):
    """The model before the size of a batch, which another model may change."""
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path / "photos", {"across": 8, "down": 8})
    for options, told in (
        (["--data", "fotos"], "this folder has no 'fotos'. Did you mean 'photos'?"),
        (["--data", "photos/up"], "photos has no 'up'."),
        (["--data", "photos", "--model", "convnext_atom"], "no model 'convnext_atom'. Did you mean 'convnext_atto'"),
    ):
        assert main.run(["train", "small/scratch", *options]) == 2
        assert told in " ".join(capsys.readouterr().err.split())


def test_without_colour(trained):
    plain = on_terminal(["info", "catalog"], NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain.raw)
    warned = on_terminal([*RUN, "--ema.decay", "0.99999", "--dry-run"], NO_COLOR="1")
    assert "half-life" in warned.text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", warned.raw)
    assert not warned.too_long()


def test_a_training_of_small_images_imports_nothing_slow(tmp_path):
    """PyTorch's compiler, which torchvision and every optimizer of PyTorch's import too, takes as long as PyTorch."""
    script = (
        "import sys; from convnext.cli.main import run; run(sys.argv[1:]); "
        "print('slow:', {'torch._dynamo', 'sympy', 'torchvision', 'timm', 'sklearn', 'pycocotools'} & set(sys.modules))"
    )
    options = [
        *TINY,
        "--total-batch",
        "1024",
        "--device-batch",
        "1024",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run([sys.executable, "-c", script, "train", *options], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "slow: set()", done.stdout + done.stderr


def startup() -> dict:
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "startup.py"))


def test_seconds_until_a_line_are_those_until_that_line():
    seconds = startup()["seconds"]
    script = "import sys, time; print('first', flush=True); time.sleep(60)"
    assert seconds([sys.executable, "-c", script], until="first") < 30
    with pytest.raises(RuntimeError, match="ended with 3"):
        seconds([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="ended with 0"):
        seconds([sys.executable, "-c", "print('other')"], until="first")


@pytest.mark.slow
def test_the_startup_benchmark_runs_and_a_busy_machine_publishes_nothing(tmp_path, monkeypatch, capsys):
    out, script = tmp_path / "startup.json", startup()
    assert 0 <= script["busy"](0.05) <= 1
    monkeypatch.setitem(script["main"].__globals__, "busy", lambda: 0.9)
    assert script["main"](["--rounds", "1", "--out", str(out), *TINY, "--epochs", "1"]) == 1
    said = capsys.readouterr().out
    for name in ("torch", "mistake", "predict", "first step"):
        assert re.search(rf"{name} +\d+\.\d\d s +\d+\.\d\d of", said)
    assert re.search(r"quickstart +\d+\.\d\d s +bars: 60", said)
    assert "nothing is written" in said
    assert not out.exists()
