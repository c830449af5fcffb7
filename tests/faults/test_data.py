"""Images that cannot be read and numbers that are not finite, in training and in use."""

import json

import pytest
from processes import command, survived
from scenario import is_full, scenario, sizes

from convnext import models
from convnext.cli import main
from convnext.weights.save import save_weights
from pictures import SCRATCH, draw_classes

MODEL = {"name": "convnext_atto", "num_classes": 2}
PREPROCESS = {"size": 32, "crop_ratio": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


@sizes(0, 3)
def test_corrupt_images(tmp_path, request, tried):
    what = "5 % of the training images are damaged: left out and listed; too many, or held out: one sentence, exit 2"
    with scenario("corrupt images", what, is_full(request)) as now:
        draw_classes(tmp_path / "photos" / "train", {"across": 40, "down": 40})
        draw_classes(tmp_path / "photos" / "val", {"across": 4, "down": 4})
        train = sorted((tmp_path / "photos" / "train").rglob("*.png"))
        for path in train[::20]:
            path.write_bytes(path.read_bytes()[:60])
        argv = ["train", "small/scratch", *SCRATCH, "--epochs", "2", "--data", tmp_path / "photos"]
        with now.case("5 %"):
            out = tmp_path / "run"
            survived(command([*argv, "--max-corrupt-share", "0.05", "--out", out], tmp_path / "output"), 0)
            lines = [json.loads(line) for line in (out / "unreadable.jsonl").read_text().splitlines()]
            assert len(lines) == len(set(lines)) == 4
            assert all(any(path.name in line for line in lines) for path in train[::20])
        with now.case("too many"):
            said = survived(
                command([*argv, "--max-corrupt-share", "0.02", "--out", tmp_path / "b"], tmp_path / "output"), 2
            )
            assert "--max-corrupt-share" in said
        with now.case("held out"):
            held = next((tmp_path / "photos" / "val").rglob("*.png"))
            held.write_bytes(b"")
            said = survived(
                command([*argv, "--max-corrupt-share", "0.05", "--out", tmp_path / "c"], tmp_path / "output"), 2
            )
            assert held.name in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
@sizes(0, 4)
def test_numbers_that_are_not_finite(value, tmp_path, request, tried, capsys):
    with scenario(
        f"{value} in a model",
        "predict gives no number and exits 2; training from it, or at a rate of 1e30, stops with a sentence",
        is_full(request),
    ) as now:
        photos = draw_classes(tmp_path / "photos", {"across": 20, "down": 20})
        tensors = models.build(**MODEL).state_dict()
        tensors["head.weight"][0, 0] = value
        file = save_weights(
            tensors,
            tmp_path / "m.safetensors",
            metadata={"model": MODEL, "preprocess": PREPROCESS, "classes": ["across", "down"]},
        )
        for options in ([], ["--json"]):
            with now.case(f"predict {options}"):
                assert main.run(["predict", str(file), str(photos / "down" / "0.png"), *options]) == 2
                captured = capsys.readouterr()
                assert "not finite" in captured.out + captured.err
                assert "NaN" not in captured.out.replace("(NaN or infinity)", "")
        with now.case("train from it"):
            options = (
                "--model.name convnext_atto --model.stem-stride 4 --image-size 32 --total-batch 4 --device-batch 4 --epochs 20 "
                "--runtime.workers 0 --runtime.device cpu"
            )
            argv = ["train", "small/finetune", *options.split(), "--model.weights", file, "--data", photos]
            said = survived(command([*argv, "--out", tmp_path / "a"], tmp_path / "output"), 2)
            assert "finite" in said
        with now.case("a rate that explodes"):
            argv = [
                "train",
                "small/scratch",
                *SCRATCH,
                "--total-batch",
                "4",
                "--epochs",
                "20",
                "--optim.lr",
                "1e30",
                "--data",
                photos,
            ]
            said = survived(command([*argv, "--out", tmp_path / "b"], tmp_path / "output"), 2)
            assert "finite" in said
