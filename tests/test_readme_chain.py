"""README's commands, one after the other in an empty folder, on real digits and drawn objects: each ends with 0, and every
accuracy that they print is of held-out images."""

import glob
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.cli.main import run

ROOT = Path(__file__).parents[1]

SMALL_DENSE = (
    "--model.weights None --model.drop-path-rate 0 --total-batch 4 --device-batch 2 --runtime.workers 0 "
    "--optim.warmup-steps 1"
)
OPTIONS = {
    "convnext train": "--epochs 2",
    "convnext train small/finetune": (
        "--image-size 64 --epochs 1 --total-batch 32 --device-batch 32 --runtime.workers 0 --model.weights atto.pth "
        "--model.name convnext_atto"
    ),
    "convnext train small/detect": (
        f"{SMALL_DENSE} --model.name mask_rcnn_convnext_atto --epochs 1 --augment.short-sides 64 --augment.no-random-crop "
        "--test-short 64 --test-long 96 --rpn-samples 32 --roi-samples 16"
    ),
    "convnext train small/segment": (
        f"{SMALL_DENSE} --reduce-zero-label True --model.name upernet_convnext_atto --steps 4 --eval-every 4 --model.channels 32 "
        "--model.auxiliary-channels 16 --augment.short 64 --augment.long 256 --augment.crop 64"
    ),
    "convnext robustness runs": "--corruptions gaussian_noise fog --severities 3",
    "convnext export runs/small-finetune --format openvino": "--calibration-images 20 --agreement 50",
    "convnext evaluate runs": "--workers 0",
}
"""What makes a command that begins so small enough, after its own words; all that apply."""
NOT_RUN = {
    "cascade_mask_rcnn_convnext_base": "a released detector of 400 MB",
    "upernet_convnext_tiny.ade20k_512": "a released segmenter, and ADE20K",
    "aot-inductor": "compiles for minutes; tests/export/test_export_formats.py",
    "export runs/small-detect": "hardly trained, it scores all alike; tests/export/test_export_detector.py",
    "--data imagenet": "ImageNet",
    "--clean imagenet": "ImageNet",
    "coco/cascade-base-22k": "the paper's size; tests/cli/test_dense.py",
    "ade20k/upernet-tiny": "the paper's size; tests/cli/test_dense.py",
    "report roadmap": "runs of the roadmap; tests/report/test_figures.py",
    "report paper": "counts all models for minutes; tests/report/test_paper_pages.py",
}
"""Words of commands that are left out, and why."""


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    blocks = [
        block
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if kind in ("", "bash")
    ]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [match[1] for line in lines if (match := re.match(r"(?:pip .*uv run )?(convnext .*)", line))]


def test_what_is_left_out_is_there():
    found = commands()
    assert found[0] == "convnext train"
    assert len(found) > 30
    assert [words for words in NOT_RUN if not any(words in command for command in found)] == []
    assert [start for start in OPTIONS if not any(command.startswith(start) for command in found)] == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    import convnext
    from convnext.data.shapes import write_shapes, write_shapes_semantic

    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images[:240], digits.target, strict=False)):
        to = Path("holiday") / f"{i}.jpg" if i >= 236 else Path("photos") / str(label) / f"{i}.png"
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((64, 64)).save(to)
    write_shapes("coco", images=8, val_images=2, size=96)
    write_shapes("others", images=2, val_images=1, size=96)
    Path("others/train").rename("streets")
    write_shapes_semantic("ade", images=8, val_images=2, size=96)
    convnext.save_weights(convnext.create_model("convnext_atto"), "atto.pth", format="official")
    convnext.save_weights(convnext.create_model("convnext_tiny"), "convnext_tiny_1k_224_ema.pth", format="official")
    return tmp_path


def small(command: str) -> list[str]:
    """The words of a command with globs expanded, and the options that make it small."""
    if command.startswith("convnext train small/finetune"):
        command = command.partition(" --model.weights")[0]
    more = [options for start, options in OPTIONS.items() if command.startswith(start)]
    if command != "convnext train" and "--epochs 2" in more:
        more.remove("--epochs 2")
    words = shlex.split(f"{command} {' '.join(more)}")[1:]
    return [each for word in words for each in (sorted(glob.glob(word)) if "*" in word else [word])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_commands_run_one_after_the_other(folder):
    measured = 0
    for command in commands():
        if any(words in command for words in NOT_RUN):
            continue
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run(small(command))
        said = out.getvalue() + err.getvalue()
        assert code == 0, f"{command}\n{said}"
        if re.search(r"top-1|AP|mIoU", out.getvalue()) and command.split()[1] in ("train", "evaluate", "robustness"):
            measured += 1
            assert re.search(r"held[- ]out", said), f"{command}\n{said}"
            assert not re.search(r"trained on \d", said.split("held")[-1]), said
    assert measured >= 7
