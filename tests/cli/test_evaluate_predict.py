"""`convnext evaluate` and `convnext predict`: a file or a run is all they need."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from convnext import create_model, load, save_weights
from convnext.classification.open import open_split
from convnext.cli.main import run
from pictures import draw_classes


def test_a_run_is_evaluated_on_what_it_held_out(trained, capsys):
    assert run(["evaluate", str(trained), "--workers", "0", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "359 images of digits" in said
    found = json.loads((trained / "evaluation" / "evaluation.json").read_text())
    last = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()][-1]
    for label in ("raw", "ema"):
        assert found["results"][label]["top1"] == last[f"{label}/top1"]
        assert found["results"][label]["loss"] == pytest.approx(last[f"{label}/loss"], rel=1e-6)
    assert set(found["per_class"]["raw"]) == set("0123456789")
    assert (trained / "evaluation" / "confusion.png").stat().st_size > 10_000


def test_other_images_do_not_replace_what_a_run_held_out(trained, tmp_path, capsys):
    run_folder = shutil.copytree(trained, tmp_path / "run")
    images = open_split("digits", "val", 0.1, 0)
    for place, count in (("a", 1), ("b", 2)):
        for i in range(40):
            folder = tmp_path / place / "others" / images.label_names(i)[0]
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(count):
                images.image(i).save(folder / f"{i}-{n}.png")
    own, common = (
        run_folder / "evaluation" / "evaluation.json",
        ["--weights", "raw", "--workers", "0", "--device", "cpu"],
    )
    argv = ["evaluate", str(run_folder), *common]
    assert run(argv) == 0
    before = own.read_bytes()
    for data, images_of in (("a", 40), ("b", 80), ("a", 40)):
        assert run([*argv, "--data", str(tmp_path / data / "others")]) == 0
        folder = run_folder / ("evaluation-others" if data == "a" else "evaluation-others-2")
        assert f"Written: {folder}" in capsys.readouterr().out.replace("\n", "")
        assert json.loads((folder / "evaluation.json").read_text())["images"] == images_of
        assert not (folder / "training.parquet").exists(), "it was not trained on these"
    assert run([*argv, "--split", "train"]) == 0
    assert json.loads((run_folder / "evaluation-train" / "evaluation.json").read_text())["images"] == 1438
    assert own.read_bytes() == before
    assert (run_folder / "evaluation" / "training.parquet").exists()


def test_a_file_alone_is_enough(trained, tmp_path, capsys):
    file = shutil.copy(trained / "model.safetensors", tmp_path / "digits.safetensors")
    assert run(["evaluate", str(file), "--data", "digits", "--workers", "0", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]["best"]
    last = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()][-1]
    assert found["top1"] == last["raw/top1"]


def test_a_file_knows_its_data_and_which_part_was_held_out(trained, tmp_path, capsys):
    file = shutil.copy(trained / "model.safetensors", tmp_path / "digits.safetensors")
    assert run(["evaluate", str(file), "--workers", "0"]) == 0
    assert "359 images of digits (held out)" in capsys.readouterr().out
    assert run(["evaluate", str(file), "--split", "all", "--workers", "0"]) == 0
    assert "1,797 images of digits (held out and trained on: 1,438)" in capsys.readouterr().out


def test_accuracy_is_what_counting_by_hand_gives(trained, tmp_path):
    assert run(["evaluate", str(trained), "--weights", "raw", "--workers", "0", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())["results"]["raw"]
    images = open_split("digits", "val", 0.1, 0)
    classifier = load(trained, weights="raw", device="cpu")
    guesses = [p.top(1)[0].index for p in classifier.predict([images.image(i) for i in range(len(images))])]
    assert found["top1"] == pytest.approx(100 * np.mean(np.array(guesses) == images.labels))


def test_predict_files_folders_and_globs(trained, tmp_path, capsys):
    images = open_split("digits", "val", 0.1, 0)
    for i in range(6):
        images.image(i).save(tmp_path / f"{i}.png")
    patterns = [str(tmp_path / "0.png"), str(tmp_path / "[12].png"), str(tmp_path)]
    assert run(["predict", str(trained), *patterns, "--json", "--top-k", "3", "--batch", "4"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"][-5:] for line in lines] == [f"{i}.png" for i in (0, 1, 2, 0, 1, 2, 3, 4, 5)]
    assert all(len(line["predictions"]) == 3 for line in lines)
    first = lines[0]["predictions"]
    assert first[0]["probability"] >= first[1]["probability"] >= first[2]["probability"]
    assert lines[0]["predictions"] == lines[3]["predictions"]


def test_predict_prints_a_table(trained, tmp_path, capsys):
    Image.new("RGB", (20, 30)).save(tmp_path / "black.png")
    assert run(["predict", str(trained), str(tmp_path / "black.png")]) == 0
    assert "black.png" in capsys.readouterr().out


def test_an_unreadable_image_does_not_keep_the_others_from_their_answer(trained, tmp_path, capsys):
    Image.new("RGB", (20, 30)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert run(["predict", str(trained), str(tmp_path), "--json"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "error" in lines[0]
    assert len(lines[1]["predictions"]) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "{run}", "{tmp}/none.jpg"], "nothing there"),
        (["predict", "{run}", "{tmp}"], "no images in it"),
        (["predict", "{tmp}/none.safetensors", "{run}/curves.png"], "none.safetensors"),
        (["predict", "convnext_tinny.in1k", "{run}/curves.png"], "convnext_tiny.in1k"),
        (["evaluate", "{tmp}/bare.safetensors"], "--data"),
        (["evaluate", "{run}/model.safetensors", "--data", "{tmp}/none"], "no data"),
        (["evaluate", "{run}/metrics.jsonl", "--data", "digits"], "metrics.jsonl"),
        (["evaluate", "{tmp}", "--data", "digits"], "model.safetensors"),
    ],
)
def test_bad_input_gets_a_paragraph_and_exit_code_2(trained, arguments, words, tmp_path, capsys):
    if "{tmp}/bare.safetensors" in arguments:
        save_weights(create_model("convnext_atto", num_classes=3), tmp_path / "bare.safetensors")
    assert run([a.format(run=trained, tmp=tmp_path) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_evaluating_on_classes_that_the_model_does_not_know(trained, tmp_path, capsys):
    draw_classes(tmp_path / "data", {"across": 2, "down": 2})
    assert run(["evaluate", str(trained / "model.safetensors"), "--data", str(tmp_path / "data")]) == 2
    assert "2 classes and the model 10" in capsys.readouterr().err
