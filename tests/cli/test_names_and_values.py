"""What comes from elsewhere (names of files and classes) is shown and never interpreted; numbers out of range are refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from convnext.cli.main import run
from convnext.report.batch import draw_batch
from convnext.report.classification import draw_classification
from convnext.report.confusion import draw_confusion
from convnext.report.detection import draw_detections
from convnext.report.segmentation import draw_sample
from pictures import SCRATCH, draw_classes

NAMES = [
    "[bold red]a[nope]",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b31m",
    "two\nlines",
    "$(id)$ $x$",
    "\u202eright to left",
    "%s{}",
    "",
]
WRONG = {
    "predict m x.png": "--batch 0,--batch -1,--image-size 0,--image-size -1,--image-size 65536,--image-size 4294967296,--top-k -1,"
    "--top-k 0,--threshold nan,--threshold 2,--alpha -1,--alpha inf",
    "evaluate m": "--batch 0,--batch -1,--workers -1,--image-size 0,--workers 99999",
    "robustness m --corrupt digits": "--batch 0,--workers -1,--severities 0,--severities 6",
    "benchmark convnext_atto": "--image-size 0,--batch 0,--rounds 0,--seconds nan,--seconds 0",
    "data check d": "--image-size -1,--val-share nan,--val-share 1",
    "data corrupt d o": "--size 0,--severities 9",
    "export m": "--batch 0,--image-size 65536,--calibration-images 0,--comparison-images -1,--tolerance nan,"
    "--tolerance -1,--agreement 101",
    "train quickstart --dry-run": "--image-size 0,--image-size 65536,--total-batch -1,--runtime.workers -1,--optim.betas 1 1,"
    "--optim.eps nan,"
    "--augment.crop-scale -1 2,--epochs 0,--optim.lr nan,--val-share -1",
}  # fmt: skip


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in WRONG.items() for o in options.split(",")])
def test_a_value_out_of_range_is_named_before_anything_is_opened(command, option, capsys):
    assert run([*command.split(), *option.split()]) == 2
    said = capsys.readouterr().err
    assert option.split()[0] in said
    assert "must be" in said


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file of weights whose classes have names that terminals and figures could misunderstand."""
    from convnext import models
    from convnext.weights.save import save_weights

    file = tmp_path_factory.mktemp("model") / "m.safetensors"
    metadata = {
        "model": {"name": "convnext_atto", "num_classes": len(NAMES)},
        "classes": NAMES,
        "preprocess": {"size": 32, "crop_ratio": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    return save_weights(models.build("convnext_atto", num_classes=len(NAMES)).state_dict(), file, metadata=metadata)


def test_names_of_files_and_classes_are_shown_as_they_are(model, tmp_path, capsysbinary):
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    for name in (os.fsencode(name) for name in [*NAMES, "bad\udcff"] if name):
        Image.new("RGB", (8, 8)).save(folder + b"/" + name + b".png")
        with open(folder + b"/broken " + name + b".png", "wb") as file:
            file.write(b"no image")
    for options in ([], ["--json"], ["--out", str(tmp_path / "out")]):
        assert run(["predict", str(model), os.fsdecode(folder), *options]) == 2  # for the broken ones
        captured = capsysbinary.readouterr()
        for stream in captured.out, captured.err:
            assert not set(stream) & set(range(32)) - {9, 10}, stream
            stream.decode("utf-8")
        assert b"Traceback" not in captured.err
        if options == ["--json"]:
            assert len([json.loads(line) for line in captured.out.splitlines()]) == 2 * len(NAMES)
        else:
            assert b"[bold red]a[nope]" in captured.out
            assert b"\\x1b[31mred" in captured.out
    assert len(list((tmp_path / "out").iterdir())) == len(NAMES)


def test_errors_about_names(tmp_path, capsys):
    assert run(["predict", f"{tmp_path}/\x1b[31m[bold]", "x"]) == 2
    assert run(["predict", "x", f"{tmp_path}/\udcff\x07"]) == 2
    assert run(["\x1b[31m[bold]"]) == 2
    for verb, words in (
        ("evaluate", ["m", "--weights", "\x1b[31m"]),
        ("report", ["curves", "x", "--runs", "\x1b[31m"]),
    ):
        with pytest.raises(SystemExit):
            run([verb, *words])
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "[bold]" in said


def test_names_in_figures(tmp_path):
    image, k = Image.new("RGB", (64, 64)), len(NAMES)
    boxes = np.array([[2.0, 2, 30, 30]] * k)
    draw_classification(image, [(name, 1 / k) for name in NAMES])
    draw_detections(image, boxes, np.arange(k), np.full(k, 0.5), names=NAMES)
    draw_sample([(image, np.arange(64 * 64).reshape(64, 64) % k)], tmp_path / "sample.png", NAMES)
    draw_confusion(np.eye(k, dtype=int), NAMES, tmp_path / "confusion.png")
    draw_batch([[np.zeros((8, 8, 3))] * 2] * k, NAMES, tmp_path / "batch.png")


def test_a_closed_or_full_output_is_an_error(tmp_path):
    def code(shell: str) -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", f"'{sys.executable}' -m convnext {shell}"], capture_output=True, text=True)
        return done.returncode, done.stderr

    closed, said = code("--version >&-")
    assert closed == 2
    assert "standard output is closed" in said
    assert code("--version 2>&-") == (0, "")
    if os.path.exists("/dev/full"):
        full, said = code("--version >/dev/full")
        assert full == 2
        assert "No space left" in said
        assert "Traceback" not in said


def test_convert_replaces_nothing_unasked(model, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert run(["convert", str(model), str(out)]) == 0
    before = out.read_bytes()
    assert run(["convert", str(model), str(out), "--format", "timm"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run(["convert", str(model), str(out), "--format", "timm", "--overwrite"]) == 0
    assert out.read_bytes() != before
    assert run(["convert", str(out), str(out), "--overwrite"]) == 2
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("mine")
    assert run(["convert", str(model), str(tmp_path / "folder"), "--format", "transformers"]) == 2
    assert (tmp_path / "folder" / "config.json").read_text() == "mine"


def test_a_class_whose_name_no_file_can_hold_is_named_before_the_first_step(tmp_path, capsys):
    draw_classes(tmp_path / "photos", {"across": 4, "down\udcff": 4})
    assert (
        run(["train", "small/scratch", *SCRATCH, "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "run")])
        == 2
    )
    said = capsys.readouterr().err
    assert "no UTF-8" in said
    assert "down\\xff" in said or "down\\udcff" in said


def test_a_list_of_unreadable_images_that_a_kill_cut_short(tmp_path):
    from convnext.task.engine import _noted

    log = tmp_path / "unreadable.jsonl"
    assert _noted(log) == set()
    log.write_bytes(b'"one"\n"two"\n"thr')
    assert _noted(log) == {"one", "two"}
    assert log.read_text() == '"one"\n"two"\n'


def test_images_that_changed_since_the_last_checkpoint_are_counted(tmp_path):
    from convnext import tasks
    from convnext.recipes import get
    from convnext.training import changed_files

    draw_classes(tmp_path / "photos", {"across": 4, "down": 4})
    spec = tasks.get("classification")
    images, _ = spec.open_data(replace(get("small/scratch"), data=str(tmp_path / "photos")))
    assert changed_files(spec, images, tmp_path / "run") == []
    (tmp_path / "run" / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert changed_files(spec, images, tmp_path / "run") == []
    file = spec.file(images, 2)
    assert file
    os.utime(file, (2e9, 2e9))
    assert changed_files(spec, images, tmp_path / "run") == [file]
