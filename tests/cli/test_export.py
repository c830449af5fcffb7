"""`convnext export`, and `predict` and `evaluate` on what it wrote."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convnext
from convnext.classification.open import open_split
from convnext.cli.main import run
from convnext.data.pixels import DensePreprocess
from convnext.data.shapes import write_shapes, write_shapes_semantic

SEGMENTATION = [
    "small/segment", "--total-batch", "4", "--device-batch", "2", "--model.weights", "None", "--runtime.workers", "0",
    "--runtime.device", "cpu", "--optim.warmup-steps", "1", "--model", "upernet_convnext_atto", "--steps", "2",
    "--eval-every", "2", "--model.channels", "16", "--model.auxiliary-channels", "8", "--augment.short", "64",
    "--augment.long", "256", "--augment.crop", "64", "--reduce-zero-label", "True",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The trained digits model in every format that needs no compiler."""
    names = {"onnx": "digits.onnx", "openvino": "digits.xml", "torch-export": "digits.pt2"}
    return written(trained, tmp_path_factory.mktemp("exported"), names)


@pytest.fixture(scope="module")
def int8_files(trained, tmp_path_factory):
    names = {"onnx": "digits.onnx", "openvino": "digits.xml"}
    return written(
        trained, tmp_path_factory.mktemp("int8"), names, "--precision", "int8", "--calibration-images", "100"
    )


def written(trained, folder, names: dict[str, str], *options: str) -> dict[str, str]:
    for format, name in names.items():
        assert run(["export", str(trained), "--format", format, "--out", str(folder / name), *options]) == 0
    return {format: str(folder / name) for format, name in names.items()}


def accuracy(model: str, out, capsys) -> dict:
    assert (
        run(
            ["evaluate", model, "--trust", "--data", "digits", "--workers", "0", "--weights", "best", "--out", str(out)]
        )
        == 0
    )
    capsys.readouterr()
    (result,) = json.loads((out / "evaluation.json").read_text())["results"].values()
    return result


def test_evaluate_measures_what_is_deployed(trained, files, tmp_path, capsys):
    expected = accuracy(str(trained), tmp_path, capsys)
    for file in files.values():
        found = accuracy(file, tmp_path, capsys)
        assert found["top1"] == expected["top1"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)


def answers(model: str, folder, capsys) -> list[dict]:
    """The best class of each image of a folder."""
    assert run(["predict", model, str(folder), "--json", "--batch", "8", "--trust"]) == 0
    return [json.loads(line)["predictions"][0] for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def digits(tmp_path):
    images = open_split("digits", "val", 0.1, 0)
    for i in range(20):
        images.image(i).save(tmp_path / f"{i:02}.png")
    return tmp_path


def test_predict_gives_the_same_answers(trained, files, digits, capsys):
    expected = answers(str(trained), digits, capsys)
    for file in files.values():
        found = answers(file, digits, capsys)
        assert [answer["class"] for answer in found] == [answer["class"] for answer in expected]
        assert found[0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-5)


@pytest.mark.slow
def test_int8_gives_nearly_the_same_answers(trained, int8_files, digits, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("results")
    top1, expected = accuracy(str(trained), out, capsys)["top1"], answers(str(trained), digits, capsys)
    for file in int8_files.values():
        assert accuracy(file, out, capsys)["top1"] >= top1 - 1
        found = answers(file, digits, capsys)
        assert np.mean([a["class"] == b["class"] for a, b in zip(expected, found, strict=True)]) >= 0.95


def test_a_format_that_can_run_code_is_opened_only_with_trust(files, tmp_path, capsys):
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    for verb in (["predict", files["torch-export"], str(tmp_path / "a.png")], ["evaluate", files["torch-export"]]):
        assert run(verb) == 2
        assert "--trust" in capsys.readouterr().err


def test_the_report(trained, tmp_path, capsys):
    out = tmp_path / "some" / "digits.pt2"
    assert (
        run(["export", str(trained), "--format", "torch-export", "--out", str(out), "--comparison-images", "30"]) == 0
    )
    said = capsys.readouterr()
    for words in ("30 held-out images of digits, 8 x 8 px", "(0.0001 allowed)", "100.00 %", "MB", f"predict {out}"):
        assert words in said.out
    assert [path.name for path in out.parent.iterdir()] == ["digits.pt2"]


def test_the_file_is_beside_the_checkpoint_unless_told_otherwise(trained, tmp_path, capsys):
    import shutil

    checkpoint = shutil.copy(trained / "best.safetensors", tmp_path / "digits.safetensors")
    assert run(["export", str(checkpoint), "--format", "torch-export", "--dynamic", "none", "--batch", "4"]) == 0
    assert "100 held-out images of digits" in capsys.readouterr().out
    assert (tmp_path / "digits.pt2").exists()


@pytest.mark.slow
def test_a_segmenter(tmp_path, capsys):
    data = write_shapes_semantic(tmp_path / "data", images=4, val_images=2, size=96)
    out = tmp_path / "run"
    assert run(["train", *SEGMENTATION, "--data", str(data), "--out", str(out)]) == 0
    assert run(["export", str(out), "--format", "onnx"]) == 0
    found = []
    argv = ["--data", str(data), "--reduce-zero-label", "True", "--out", str(tmp_path / "results")]
    for model in (out / "best.safetensors", out / "best.onnx"):
        assert run(["evaluate", str(model), *argv]) == 0
        found.append(json.loads((tmp_path / "results" / "evaluation.json").read_text())["results"]["best"]["miou"])
    assert found[0] == pytest.approx(found[1], abs=0.01)
    assert (
        run(["predict", str(out / "best.onnx"), str(data / "images" / "validation"), "--out", str(tmp_path / "p")]) == 0
    )
    assert len(list((tmp_path / "p").glob("*.overlay.jpg"))) == 2
    assert run(["predict", str(out / "best.onnx"), str(data / "images"), "--mode", "whole"]) == 2
    assert "--mode is slide" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["export", "{run}", "--format", "onnx", "--precision", "bf16"], "openvino: fp32, fp16, bf16, int8"),
        (["export", "{run}", "--dynamic", "colour"], "batch,size, or none"),
        (["export", "{run}", "--dynamic", "none", "--batch", "0"], "--batch is 0"),
        (["export", "{run}", "--out", "{tmp}/m.pt"], "ends in .onnx"),
        (["export", "{bare}", "--precision", "int8"], "--calibration"),
        (["export", "{run}", "--tolerance", "0"], "more than 0: digits/"),
        (["export", "{run}", "--images", "{tmp}/nothing/*.jpg"], "nothing there"),
        (["export", "{onnx}"], "exported file already"),
        (["predict", "{onnx}", "{tmp}/a.png", "--precision", "bf16"], "leave out --precision"),
        (["predict", "{onnx}", "{tmp}/a.png", "--image-size", "16"], "--image-size 16"),
        (["predict", "{tmp}/broken.onnx", "{tmp}/a.png"], "broken.onnx"),
        (["predict", "{tmp}/broken.pt2", "{tmp}/a.png"], "damaged"),
    ],
)
def test_mistakes_get_a_paragraph(argv, said, trained, files, tmp_path, tmp_path_factory, capsys):
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    for name in ("broken.onnx", "broken.pt2"):
        (tmp_path / name).write_bytes(b"no model")
    bare = tmp_path_factory.mktemp("bare") / "m.safetensors"
    convnext.save_weights(convnext.create_model("convnext_atto", num_classes=3), bare)
    places = {"run": trained, "onnx": files["onnx"], "tmp": tmp_path, "bare": bare}
    assert run([word.format(**places) for word in argv]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert "Traceback" not in found
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "broken.onnx", "broken.pt2"}


def documented(kind: str, **files) -> None:
    """Run the part of docs/deploy.md about a kind of model, with these files for those that it names."""
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    code = re.search(rf"## A {kind} in.*?```python\n(.*?)```", page, re.DOTALL)[1]
    for name, file in files.items():
        code, count = re.subn(rf'"{name}\.\w+"', repr(str(file)), code)
        assert count == 1
    exec(compile(code, "docs/deploy.md", "exec"), {})


def test_a_classifier_without_this_package(files, tmp_path, capsys):
    picture = tmp_path / "four.png"
    data = open_split("digits", "val", 0.1, 0)
    data.image(3).convert("RGB").resize((31, 20)).save(picture)
    documented("classifier", model=files["onnx"], picture=picture)
    found = capsys.readouterr().out.strip()
    assert run(["predict", files["onnx"], str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["class"] == found


@pytest.fixture
def detector(tmp_path):
    """A checkpoint of random weights, so large that some regions are surely something."""
    import torch

    import convnext

    torch.manual_seed(0)
    model = convnext.create_model("mask_rcnn_convnext_atto", num_classes=3, layer_scale_init_value=1.0)
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight *= 4
        model.rpn_head.rpn_cls.weight *= 10
    preprocess = asdict(DensePreprocess(96, 160))
    told = {"task": "detection", "classes": ["circle", "rectangle", "triangle"], "preprocess": preprocess}
    return convnext.save_weights(model, tmp_path / "detector.safetensors", metadata=told)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--format", "onnx"), ("--format", "openvino", "--image-size", "160")])
def test_a_detector(options, detector, tmp_path, capsys):
    data = write_shapes(tmp_path / "shapes", images=2, val_images=3, size=96)
    file = tmp_path / ("d.onnx" if "onnx" in options else "d.xml")
    assert run(["export", str(detector), *options, "--out", str(file), "--images", str(data / "val")]) == 0
    assert "100.00 % of" in capsys.readouterr().out
    found = []
    for model in (detector, file):
        assert run(["evaluate", str(model), "--data", str(data), "--out", str(tmp_path / "out")]) == 0
        (result,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"].values()
        found.append(result)
    if "onnx" in options:  # the other has pictures of another size
        assert found[1] == pytest.approx(found[0], abs=0.1, nan_ok=True)
    pictures = sorted(map(str, (data / "val").glob("*.png")))
    if "onnx" in options:
        capsys.readouterr()
        documented("detector", detector=file, picture=pictures[0])
        assert capsys.readouterr().out.split()[0] in ("circle", "rectangle", "triangle")
    assert run(["predict", str(file), *pictures, "--out", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "aot-inductor"], "A detector is not written as aot-inductor in fp32. There are onnx: fp32, fp16"),
        (["--format", "onnx", "--batch", "2"], "one image a call"),
        (["--format", "onnx", "--dynamic", "batch"], "one image a call"),
        (["--format", "onnx", "--image-size", "100"], "a detector's is a multiple of 32"),
    ],
)
def test_what_a_detector_is_not_written_as(options, said, detector, capsys):
    assert run(["export", str(detector), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
