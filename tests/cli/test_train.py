"""`convnext train` as people use it, rightly and wrongly."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from convnext.cli.main import run
from pictures import SCRATCH, TINY, draw_classes


def metrics(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_a_folder_of_pictures_and_leaves_everything_behind(striped, tmp_path, capsys):
    out = tmp_path / "run"
    plain = "--augment.mixup 0 --augment.cutmix 0 --augment.rand-augment None --optim.lr 5e-3".split()
    assert run(["train", "small/scratch", *SCRATCH, *plain, "--data", str(striped), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("batch", "steps per epoch", "warm-up", "EMA", "learning rate", "cpu (", "Best:", "Next:"):
        assert words in said
    left = {path.name for path in out.iterdir()}
    assert left >= {
        "config.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "curves.png", "summary.json",
        "model.safetensors", "model_ema.safetensors", "best.safetensors",
    }  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best"]["score"] >= 95
    with safe_open(out / "best.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["convnext"])
    assert metadata["classes"] == ["across", "down"]
    assert metadata["preprocess"]["size"] == 16
    assert metadata["metrics"]["top1"] == summary["best"]["score"]


def test_a_run_without_held_out_images_trains_on_all_and_keeps_the_last(striped, tmp_path, capsys):
    out = tmp_path / "run"
    options = [*SCRATCH, "--epochs", "2", "--data", str(striped), "--out", str(out), "--val-share", "0"]
    images = sum(1 for _ in striped.glob("*/*.png"))
    assert run(["train", "small/scratch", *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{images} to train on, none held out" in said
    assert "best.safetensors holds the moving average (EMA)" in said
    assert {record["kind"] for record in metrics(out)} == {"train"}
    with safe_open(out / "best.safetensors", "pt") as best, safe_open(out / "model_ema.safetensors", "pt") as last:
        assert all((best.get_tensor(key) == last.get_tensor(key)).all() for key in last.keys())  # noqa: SIM118
    assert run(["evaluate", str(out)]) == 2
    assert "nothing was held out" in " ".join(capsys.readouterr().err.split())
    assert run(["evaluate", str(out), "--split", "train"]) == 0
    assert "trained on" in capsys.readouterr().out


def test_images_to_evaluate_on_are_named_and_all_of_the_data_is_trained_on(striped, tmp_path, capsys):
    other = draw_classes(tmp_path / "other", {"across": 5, "down": 3})
    options = [*SCRATCH, "--epochs", "1", "--data", str(striped), "--val", str(other), "--out", str(tmp_path / "run")]
    assert run(["train", "small/scratch", *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 of" in said
    assert "on 8 held-out images" in said
    assert run(["evaluate", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "8 images" in said
    assert ", fp32" in said


def test_a_setting_for_fine_tuning_is_refused_without_weights(striped, tmp_path, capsys):
    options = ["--model.weights", "None", "--data", str(striped), "--out", str(tmp_path / "run"), "--dry-run"]
    assert run(["train", "table6/base-384", *options, "--total-batch", "8"]) == 2
    assert "--from-scratch" in " ".join(capsys.readouterr().err.split())
    assert run(["train", "table6/base-384", *options[2:], "--from-scratch", "--total-batch", "8"]) == 0
    assert run(["train", "table5/tiny", *options[2:], "--total-batch", "8", "--precision", "bf16"]) == 0
    assert "bf16 (the paper: fp32" in " ".join(capsys.readouterr().out.split())


def test_a_finished_run_is_not_trained_again(trained, capsys):
    assert run(["train", "quickstart", *TINY, "--epochs", "2", "--out", str(trained)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_dry_run_shows_the_plan_and_touches_nothing(tmp_path, capsys):
    assert run(["train", "quickstart", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "64 per device x 1 device x 1 accumulation = 64" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_loss_does_not_depend_on_the_number_of_workers(tmp_path):
    losses = []
    for workers in ("0", "1", "2"):
        out = tmp_path / workers
        mixing = [
            "--augment.mixup",
            "0.8",
            "--augment.rand-augment",
            "rand-m9-mstd0.5-inc1",
            "--runtime.log-every",
            "1",
        ]
        options = [*TINY, *mixing, "--epochs", "1", "--total-batch", "360", "--runtime.workers", workers]
        assert run(["train", "quickstart", *options, "--out", str(out)]) == 0
        losses.append([record.get("loss") for record in metrics(out)])
    assert losses[0] == losses[1] == losses[2]
    assert len(losses[0]) == 4


def test_unreadable_images_are_left_out_and_logged_up_to_a_share(striped, tmp_path, capsys):
    for name in ("3.png", "4.png"):
        (striped / "across" / name).write_bytes(b"not a picture")
    options = ["train", "small/scratch", *SCRATCH, "--data", str(striped), "--epochs", "4", "--seed", "1"]
    code = run([*options, "--max-corrupt-share", "0.05", "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    if code == 2:  # both are in the part that is held out: evaluation names them and leaves nothing out
        pytest.fail(said.err)
    logged = (tmp_path / "run" / "unreadable.jsonl").read_text()
    assert "3.png" in logged
    assert "Left out" in said.out
    assert run([*options, "--max-corrupt-share", "0.005", "--out", str(tmp_path / "strict")]) == 2
    refusal = capsys.readouterr().err
    assert "--max-corrupt-share" in refusal
    assert "convnext data check" in refusal


def test_an_unreadable_validation_image_fails_and_is_named(tmp_path, capsys):
    draw_classes(tmp_path / "data/train", {"across": 40, "down": 40})
    draw_classes(tmp_path / "data/val", {"across": 4, "down": 4})
    (tmp_path / "data/val/down/2.png").write_bytes(b"\x89PNG broken")
    options = ["--data", str(tmp_path / "data"), "--epochs", "1", "--out", str(tmp_path / "run")]
    assert run(["train", "small/scratch", *SCRATCH, *options]) == 2
    assert "down/2.png" in capsys.readouterr().err


def test_steps_that_are_not_finite_are_skipped_and_stop_the_run(striped, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--optim.lr", "1e30", "--optim.warmup-share", "0", "--max-nonfinite", "3", "--epochs", "40"]
    assert run(["train", "small/scratch", *SCRATCH, *options, "--data", str(striped), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "steps in a row" in said.err
    assert "--optim.lr" in said.err
    records = [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]
    assert len(records) >= 3
    assert all("/" in name for name in records[0]["samples"])
    assert len(records[0]["samples"]) == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["small/scratch", "--data", "{tmp}/missing"], "no data"),
        (["small/scratch", "--data", "{tmp}/empty"], "empty"),
        (["small/scratch"], "--data"),
        (["smal/scratch"], "small/scratch"),
        (["--data", "{tmp}"], "small/finetune"),
        (["quickstart", "--total-batch", "100000"], "fewer than one batch"),
        (["quickstart", "--model.name", "convnext_attto"], "convnext_atto"),
        (["quickstart", "--model.weights", "{tmp}/missing.pth"], "missing.pth"),
        (["quickstart", "--runtime.device", "tpu"], "not available"),
        (["quickstart", "--augment.rand-augment", "nonsense"], "RandAugment"),
        (["quickstart", "--image-size", "4"], "at least 8 pixels"),
        (["quickstart", "--out", "{tmp}/occupied"], "not empty"),
        (["quickstart", "--model.width-mult", "0.5"], "--model.width-mult"),
    ],
)
def test_bad_input_gets_a_paragraph_and_exit_code_2(arguments, words, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").write_text("years of work")
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "run")]
    assert run(["train", *arguments, "--runtime.workers", "0"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("convnext: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert (tmp_path / "occupied" / "thesis.tex").read_text() == "years of work"


def test_a_class_in_val_that_train_lacks(tmp_path, capsys):
    draw_classes(tmp_path / "data/train", {"across": 4})
    draw_classes(tmp_path / "data/val", {"across": 2, "sideways": 2})
    assert run(["train", "small/scratch", "--data", str(tmp_path / "data")]) == 2
    assert "sideways" in capsys.readouterr().err


def test_a_checkpoint_of_another_model(trained, tmp_path, capsys):
    weights = str(trained / "best.safetensors")
    assert run(["train", "quickstart", "--model.weights", weights, "--out", str(tmp_path / "run")]) == 2
    assert "convnext_atto" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--epoch", "--optim.learning-rate", "--nonsense"])
def test_a_wrong_option_exits_with_2(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(["train", "quickstart", word, "3"])
    assert stopped.value.code == 2
    assert "nrecognized" in capsys.readouterr().err


def test_two_commands_do_not_train_into_one_folder(tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        assert run(["train", "quickstart", *TINY, "--out", str(tmp_path / "run")]) == 2
    assert "Another process" in capsys.readouterr().err


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """A real limit on file size, small enough for the first checkpoint to fail."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY));"
        "from convnext.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        script,
        "train",
        "quickstart",
        *TINY,
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_fine_tuning_from_a_file_keeps_the_body_and_replaces_the_head(trained, striped, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--model.weights", str(trained / "best.safetensors"), "--data", str(striped), "--out", str(out)]
    assert run(["train", "small/finetune", *SCRATCH, *options, "--epochs", "1", "--device-batch", "16"]) == 0
    assert "the classifier is new" in capsys.readouterr().out


def test_frozen_parts_need_weights(tmp_path, capsys):
    data = draw_classes(tmp_path / "data", {"across": 4, "down": 4})
    small = ["--total-batch", "4", "--device-batch", "4"]
    assert run(["train", "small/linear-probe", "--data", str(data), "--dry-run"]) == 2
    assert "--model.weights with a checkpoint" in " ".join(capsys.readouterr().err.split())
    assert run(["train", "small/linear-probe", "--data", str(data), "--dry-run", "--from-scratch", *small]) == 0
