"""`convnext robustness` from end to end: tables, files, resuming, refusals and exit codes."""

import json
import re

import pytest
import torch

from convnext.classification.folder import FolderDataset
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.cli import main
from convnext.data.images import decode
from convnext.report.robustness import draw_robustness
from convnext.robustness import run as runner
from convnext.robustness.sets import wnids
from convnext.weights.load import load_model


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command; returns (exit code, what it printed, the keys of the units that it evaluated)."""
    monkeypatch.setitem(main.VERBS, "robustness", "")
    keys = []
    evaluate_one = runner._evaluate
    monkeypatch.setattr(
        runner, "_evaluate", lambda s, m, unit, *rest: keys.append(unit.key) or evaluate_one(s, m, unit, *rest)
    )

    def run(*argv):
        keys.clear()
        workers = () if "--workers" in argv else ("--workers", "0")
        code = main.run(["robustness", *map(str, (*argv, *workers)), "--device", "cpu"])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, list(keys)

    return run


@pytest.mark.slow
def test_released_sets_from_end_to_end(command, released, imagenet_model, tmp_path):
    sets = ("clean", "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-c", "imagenet-c-bar")
    argv = [imagenet_model, *(word for part in sets for word in (f"--{part}", released / part)), "--out", tmp_path]
    code, printed, keys = command(*argv)
    assert code == 0
    assert len(keys) == 4 + 75 + 50
    (model,) = json.loads((tmp_path / "robustness.json").read_text())["models"].values()
    summary = model["summary"]
    assert all(summary[field] is not None for field in ("clean", "a", "r", "sketch", "c", "relative_c", "c_bar"))
    assert summary["generated"] is None
    row = next(line for line in printed.splitlines() if line.startswith(str(imagenet_model)))
    assert row.split()[1:] == [
        "32",
        *(f"{summary[f]:.1f}" for f in ("clean", "c", "relative_c", "c_bar", "a", "r", "sketch")),
    ]
    assert "imagenet-a has 6 images here and 7,500 in the released set" in printed
    assert (tmp_path / "robustness.png").stat().st_size > 10_000
    assert _accuracy_on_a(imagenet_model, released) == summary["a"]

    code, again, keys = command(*argv)  # all of it is there
    assert (code, keys) == (0, [])
    assert again == printed


def _accuracy_on_a(file, released) -> float:
    """By hand: one image at a time, logits of all but the 200 classes struck out."""
    model, checkpoint = load_model(file)
    transform = eval_transform(Preprocess.from_dict(checkpoint.metadata["preprocess"]))
    allowed = [i for i, name in enumerate(wnids("clean")) if name in wnids("imagenet-a")]
    right = []
    for path in sorted((released / "imagenet-a").glob("*/*.jpg")):
        with torch.inference_mode():
            logits = model.eval()(transform(decode(path))[None])[0]
        best = max(allowed, key=lambda i: float(logits[i]))
        right.append(wnids("clean")[best] == path.parent.name)
    return 100 * sum(right) / len(right)


def test_a_set_can_be_added_and_a_stopped_command_goes_on(command, released, imagenet_model, tmp_path, monkeypatch):
    assert command(imagenet_model, "--imagenet-a", released / "imagenet-a", "--out", tmp_path)[2] == ["imagenet-a"]
    opened = []
    open_folder = FolderDataset.__init__

    def stop_at_the_tenth(self, *args):
        opened.append(args)
        if len(opened) == 10:
            raise KeyboardInterrupt
        open_folder(self, *args)

    argv = (imagenet_model, "--imagenet-c-bar", released / "imagenet-c-bar", "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FolderDataset, "__init__", stop_at_the_tenth)
        code, _, first = command(*argv)
    assert (code, len(first)) == (130, 10)
    code, printed, rest = command(*argv)
    assert code == 0
    assert rest == [first[-1], *rest[1:]]  # the unit that was stopped, and those after it
    assert len(rest) == 50 - 9
    (row,) = (line for line in printed.splitlines() if line.startswith(str(imagenet_model)) and "32" in line)
    assert row.split()[5] != "-"
    assert row.split()[6] != "-"  # of the first command


def test_a_missing_severity_is_said_before_and_the_mean_refused(
    command, released, imagenet_model, tmp_path, class_folders
):
    some = tmp_path / "c"
    for name in ("fog", "snow"):
        for severity in (1, 2, 3, 4, 5) if name == "fog" else (1, 5):
            class_folders(some / name / str(severity), wnids("clean")[:1])
    code, printed, keys = command(imagenet_model, "--imagenet-c", some, "--out", tmp_path / "out")
    assert code == 1
    assert len(keys) == 7
    assert "ImageNet-C is not complete, so there will be no mean: gaussian_noise," in printed
    assert re.search(r"No mCE\..*no error for: .*snow 2, snow 3, snow 4", printed)
    assert re.search(r"^fog +\d+\.\d$", printed, re.MULTILINE)
    assert re.search(r"^snow +-$", printed, re.MULTILINE)


def test_results_of_another_model_preprocessing_or_data_are_refused(
    command, released, make_checkpoint, tmp_path, class_folders
):
    file, out = tmp_path / "model.safetensors", ("--out", tmp_path / "out")
    folder = class_folders(tmp_path / "a", wnids("imagenet-a")[:2], size=40)
    make_checkpoint(file, seed=0)
    assert command(file, "--imagenet-a", folder, *out)[0] == 0
    before = (tmp_path / "out" / "robustness.json").read_bytes()

    make_checkpoint(file, seed=1)
    code, printed, keys = command(file, "--imagenet-a", folder, *out)
    assert (code, keys) == (2, [])
    assert re.search(
        "results of another .*model.safetensors: weights_sha256 '[0-9a-f]{64}' there, '[0-9a-f]{64}' now", printed
    )

    make_checkpoint(file, seed=0, size=24)
    code, printed, _ = command(file, "--imagenet-a", folder, *out)
    assert code == 2
    assert "preprocess {'size': 32" in printed
    assert "{'size': 24" in printed

    make_checkpoint(file, seed=0)
    class_folders(folder, wnids("imagenet-a")[:1], per_class=3, size=40)
    code, printed, _ = command(file, "--imagenet-a", folder, *out)
    assert code == 2
    assert "results of imagenet-a on other data: images_sha256" in printed
    assert (tmp_path / "out" / "robustness.json").read_bytes() == before

    (tmp_path / "out" / "robustness.json").write_text("{")
    code, printed, _ = command(file, "--imagenet-a", folder, *out)
    assert code == 2
    assert "Move the file away" in printed


def test_generated_corruptions_on_digits(command, digits_model, tmp_path):
    argv = (digits_model, "--corrupt", "digits", "--severities", "2", "5", "--out", tmp_path)
    code, printed, keys = command(*argv, "--corruptions", "contrast", "gaussian_noise")
    assert code == 0
    assert keys == ["generated", *(f"generated/{name}/{s}" for name in ("contrast", "gaussian_noise") for s in (2, 5))]
    assert "generated by convnext, not comparable with the released sets" in printed
    assert "mCE" not in printed
    (model,) = json.loads((tmp_path / "robustness.json").read_text())["models"].values()
    summary = model["summary"]
    assert summary["c"] is summary["c_bar"] is None
    errors = [error for table in summary["errors"]["generated"].values() for error in table.values()]
    assert summary["generated"]["mean_error"] == pytest.approx(sum(errors) / 4)
    assert {unit["images"] for unit in model["units"]} == {359}
    assert (tmp_path / "robustness.png").exists()

    code, printed, keys = command(*argv, "--corruptions", "contrast", "gaussian_noise", "fog", "--seed", "0")
    assert keys == ["generated/fog/2", "generated/fog/5"]
    code, printed, keys = command(*argv, "--corruptions", "fog", "--seed", "1")
    assert (code, keys) == (2, [])
    assert "seed 0 there, 1 now" in printed


def test_corruption_does_not_depend_on_the_workers(command, digits_model, tmp_path):
    argv = (digits_model, "--corrupt", "digits", "--corruptions", "shot_noise", "--severities", "4")
    for workers in ("0", "2"):
        assert command(*argv, "--out", tmp_path / workers, "--batch", "100", "--workers", workers)[0] == 0
    one, other = (json.loads((tmp_path / w / "robustness.json").read_text())["models"] for w in ("0", "2"))
    assert one == other


def test_several_models_are_rows_of_one_table(command, released, make_checkpoint, tmp_path):
    files = [make_checkpoint(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1)]
    code, printed, keys = command(*files, "--imagenet-r", released / "imagenet-r", "--out", tmp_path / "out")
    assert code == 0
    assert keys == ["imagenet-r"] * 2
    assert all(re.search(f"^{re.escape(str(file))} +32", printed, re.MULTILINE) for file in files)
    assert not (tmp_path / "out" / "robustness.png").exists()  # nothing in it has severities


def test_the_row_of_the_paper_stands_beside_its_model(command, released, make_checkpoint, tmp_path, monkeypatch):
    from convnext import paper
    from convnext.robustness import load

    monkeypatch.setattr(load, "_paper_row", lambda *_: paper.robustness("ConvNeXt-T"))
    file = make_checkpoint(tmp_path / "tiny.safetensors")
    printed = command(file, "--imagenet-r", released / "imagenet-r", "--out", tmp_path / "out")[1]
    assert re.search(
        r"^  paper: ConvNeXt-T, 1k +224 +82\.1 +53\.2 +- +40\.0 +24\.2 +47\.2 +33\.8$", printed, re.MULTILINE
    )


def test_where_the_results_go(digits_model, tmp_path):
    from convnext.cli.robustness import _default_out

    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    assert _default_out(str(tmp_path)) == tmp_path / "robustness"
    assert str(_default_out(str(digits_model))) == "robustness-digits"
    assert str(_default_out("convnext_tiny.in1k")) == "robustness-convnext_tiny.in1k"
    assert str(_default_out("timm:resnet50.a1_in1k")) == "robustness-timm-resnet50.a1_in1k"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "Name one or more models first"),
        (("MODEL",), "Nothing to evaluate on"),
        (("nowhere.pth", "--corrupt", "digits"), "There is no file or folder nowhere.pth"),
        (("MODEL", "--corrupt", "digit"), "no data 'digit'"),
        (("MODEL", "--corrupt", "digits", "--corruptions", "fogg"), "no corruption 'fogg'. Did you mean 'fog'"),
        (("MODEL", "--corrupt", "digits", "--severities", "6"), "--severities is 6"),
        (("MODEL", "--corrupt", "digits", "--corruptions"), "no corruption or no severity"),
        (("MODEL", "--imagenet-a", "."), "2 folders that are none of the 200 classes of ImageNet-A, such as 'cats'"),
    ],
)
def test_mistakes_are_answered_and_exit_with_2(command, digits_model, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    code, printed, keys = command(*(digits_model if word == "MODEL" else word for word in argv))
    assert (code, keys) == (2, [])
    assert said in printed
    assert not list(tmp_path.glob("robustness-*"))


def test_the_figure_says_what_it_lacks(tmp_path):
    from convnext.errors import ConvNextError

    with pytest.raises(ConvNextError, match="does not exist"):
        draw_robustness(tmp_path / "x.json", tmp_path / "x.png")
    empty = {"clean": 80.0, "generated": None, "errors": {}}
    (tmp_path / "x.json").write_text(json.dumps({"models": {"m": {"summary": empty}}}))
    with pytest.raises(ConvNextError, match="no corrupted images"):
        draw_robustness(tmp_path / "x.json", tmp_path / "x.png")
    with pytest.raises(ConvNextError, match="no model 'n'"):
        draw_robustness(tmp_path / "x.json", tmp_path / "x.png", ["n"])
