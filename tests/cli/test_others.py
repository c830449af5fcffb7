"""`convnext`, `info`, `data check`, `convert`, `report`."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from convnext import paper
from convnext.cli.main import VERBS, run
from convnext.weights.load import load_model
from pictures import draw_classes


def test_help_is_there_at_once_and_imports_no_torch():
    script = "import sys; from convnext.cli.main import run; run(['--help']); print({'torch', 'numpy', 'tyro'} & set(sys.modules))"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("set()")
    assert time.monotonic() - began < 2  # 0.05 s on an idle machine; a torch import would take more than 2
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", [*VERBS, "data check", "data corrupt", "report curves"])
def test_every_verb_explains_itself_without_torch(verb):
    script = f"""
import sys
from convnext.cli.main import run
try:
    run({[*verb.split(), "--help"]})
except SystemExit as stop:
    assert stop.code == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "convnext" in done.stdout


def test_a_wrong_verb(capsys):
    assert run(["trian"]) == 2
    assert "'train'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ([], ["torch", "device"]),
        (["recipes"], ["table5/tiny", "table6/base-22k-1k-384", "roadmap/resnet50-gelu"]),
        (["recipe", "table5/base", "--diff", "table5/tiny"], ["model.drop_path_rate", "0.5", "0.1"]),
        (["recipe", "quickstart"], ["optim.lr"]),
        (["catalog"], ["convnext_base.in22k_in1k_384", "86.8"]),
        (["models", "convnext_tiny"], ["28,589,128", "4.456", "13.09"]),
        (["convnext_tiny"], ["28,589,128"]),
        (["quickstart"], ["optim.lr"]),
    ],
)
def test_info(topic, words, capsys):
    assert run(["info", *topic]) == 0
    said = capsys.readouterr().out
    for word in words:
        assert word in said


@pytest.mark.slow
def test_info_models_agrees_with_the_paper_and_marks_what_does_not(capsys, monkeypatch):
    assert run(["info", "models"]) == 0
    rows, notes = capsys.readouterr().out.split("Classifiers are counted")
    assert len({line.split()[0] for line in rows.splitlines() if line.startswith("convnext_")}) == 12
    assert "*" not in rows, "a counted number that the paper prints otherwise"
    assert "equal after rounding" in notes
    row = paper.classification("convnext_tiny")
    monkeypatch.setattr(paper, "TABLE1", tuple(replace(r, gflops=4.7) if r is row else r for r in paper.TABLE1))
    assert run(["info", "models", "convnext_tiny"]) == 0
    rows, notes = capsys.readouterr().out.split("Classifiers are counted")
    (marked,) = [line for line in rows.splitlines() if "*" in line]
    assert marked.split()[:2] == ["convnext_tiny", "224"]
    assert "4.7 *" in marked
    assert "differs" in notes


def test_info_of_detectors_and_segmenters_agrees_with_tables_3_and_4(capsys):
    assert run(["info", "models", "*_convnext_tiny"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if "2048x512" in line or "1280x800" in line}
    assert lines["mask_rcnn_convnext_tiny"][-2] == "262"
    assert lines["cascade_mask_rcnn_convnext_tiny"][-2] == "741"
    assert lines["upernet_convnext_tiny"][-2] == "939"


def test_speed_is_measured_on_demand(capsys, monkeypatch):
    monkeypatch.setattr("convnext.cli.info_models.images_per_second", lambda spec, name, height, width: 3.14)
    for name in ("mask_rcnn_convnext_atto", "convnext_atto"):
        assert run(["info", "models", name, "--speed"]) == 0
        assert "3.14" in capsys.readouterr().out


@pytest.mark.slow
def test_info_roadmap_marks_the_two_misprinted_cells(capsys):
    assert run(["info", "roadmap"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if " * " in line] == ["layer-norm", "separate-downsampling"]


def test_info_of_a_run_and_of_a_file(trained, capsys):
    assert run(["info", str(trained)]) == 0
    assert "roadmap_resnet50_separate-downsampling" in capsys.readouterr().out
    assert run(["info", str(trained / "model.safetensors")]) == 0


@pytest.mark.parametrize("topic", [["modles"], ["recipe", "table5/tinny"], ["models", "resnet*"], ["recipe"]])
def test_info_of_what_is_not_there(topic, capsys):
    assert run(["info", *topic]) == 2
    assert capsys.readouterr().err.startswith("convnext: ")


def test_info_of_a_misspelt_model(capsys):
    assert run(["info", "convnext_tinny"]) == 2
    assert "Did you mean 'convnext_tiny'" in " ".join(capsys.readouterr().err.split())


def test_data_check(tmp_path, capsys):
    draw_classes(tmp_path / "data/train", {"across": 20, "down": 20})
    draw_classes(tmp_path / "data/val", {"across": 2, "down": 2})
    out = ["--recipe", "small/scratch", "--out", str(tmp_path / "out")]
    assert (
        run(["data", "check", str(tmp_path / "data"), *out]) == 0
    )  # copies across the parts are for a person to judge
    said = capsys.readouterr().out
    assert "in train and in val" in said
    assert (tmp_path / "out" / "batch.png").stat().st_size > 10_000
    (tmp_path / "data/val/down/0.png").write_bytes(b"broken")
    assert run(["data", "check", str(tmp_path / "data"), *out]) == 1
    assert "down/0.png" in capsys.readouterr().out


def test_data_corrupt_continues_and_refuses_other_settings(tmp_path, capsys):
    draw_classes(tmp_path / "data", {"across": 2, "down": 2})
    command = ["data", "corrupt", str(tmp_path / "data"), str(tmp_path / "out"), "--size", "16", "--severities", "3"]
    assert run([*command, "--corruptions", "contrast"]) == 0
    assert "4 images" in capsys.readouterr().out
    assert len(list((tmp_path / "out/contrast/3").rglob("*.jpg"))) == 4
    assert run([*command, "--corruptions", "contrast", "brightness"]) == 0
    assert "4 images" in capsys.readouterr().out  # contrast was there
    assert run([*command, "--seed", "1"]) == 2
    assert run([*command, "--corruptions", "contrst"]) == 2
    assert "contrast" in capsys.readouterr().err


def test_convert_there_and_back(tmp_path, capsys):
    from convnext import create_model, save_weights

    model = create_model("convnext_atto", num_classes=7).eval()
    save_weights(model, tmp_path / "ours.safetensors")
    x = torch.randn(1, 3, 64, 64)
    before = tmp_path / "ours.safetensors"
    formats = {"a.pth": "official", "b.pth": "timm", "c.pth": "torchvision", "d": "transformers", "e.st": "safetensors"}
    for target, form in formats.items():
        assert run(["convert", str(before), str(tmp_path / target), "--format", form]) == 0
        before = tmp_path / target
    again, _ = load_model(tmp_path / "e.st")
    assert torch.equal(again.eval()(x), model(x))


def test_report(trained, tmp_path, capsys):
    assert run(["report", "curves", str(trained)]) == 0
    assert run(["report", "figure1", "--out", str(tmp_path / "1.png")]) == 0
    assert run(["report", "roadmap", "--out", str(tmp_path / "2.png")]) == 0
    assert run(["report", "figrue1"]) == 2
    assert "figure1" in capsys.readouterr().err
    assert (tmp_path / "2.png").stat().st_size > 20_000
