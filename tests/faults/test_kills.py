"""Runs that are killed, stopped and started twice, each in a real process: none loses more than the steps since its checkpoint."""

import json
import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from processes import Child, command, survived
from safetensors.torch import load_file
from scenario import is_full, scenario, sizes

from convnext.cli import main
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.engine import checkpoint
from pictures import TINY

CLASSIFIER = [
    "train", "quickstart", *TINY, "--epochs", "2", "--total-batch", "90", "--device-batch", "45",
    "--model.drop-path-rate", "0.2", "--augment.mixup", "0.8", "--augment.random-erasing", "0.25",
    "--runtime.checkpoint-steps", "3", "--runtime.log-every", "3",
]  # fmt: skip
SEGMENTER = [
    "train", "small/segment", "--model", "upernet_convnext_atto", "--model.weights", "None", "--steps", "8",
    "--eval-every", "8", "--total-batch", "4", "--device-batch", "2", "--model.channels", "32",
    "--model.auxiliary-channels", "16", "--augment.short", "64", "--augment.long", "256", "--augment.crop", "64",
    "--runtime.workers", "0", "--runtime.device", "cpu", "--runtime.log-every", "1", "--runtime.checkpoint-steps", "2",
    "--optim.warmup-steps", "1", "--reduce-zero-label", "True",
]  # fmt: skip
DETECTOR = [
    "train", "small/detect", "--model", "mask_rcnn_convnext_atto", "--model.weights", "None", "--epochs", "4",
    "--total-batch", "4", "--device-batch", "2", "--optim.milestones", "1", "--optim.warmup-steps", "1",
    "--augment.short-sides", "64", "96", "--augment.no-random-crop", "--test-short", "64", "--test-long", "96",
    "--rpn-samples", "32", "--roi-samples", "16", "--runtime.workers", "0", "--runtime.device", "cpu",
    "--runtime.log-every", "1", "--runtime.checkpoint-steps", "2",
]  # fmt: skip
DENSE = (("segmenter", SEGMENTER, write_shapes_semantic), ("detector", DETECTOR, write_shapes))
SAVES = ("save_file", "sha256", "sync", "rename", "rmtree")  # what a save does, in this order


def recorded(out: Path) -> int:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return whole[-1]["step"] if whole else 0


def result(out: Path) -> dict:
    """All that must be equal: tensors of the last checkpoint and of the weights, and the records without their times."""
    newest = max((out / "checkpoints").iterdir())
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in r.items() if k not in ("images_per_second", "data_wait")} for r in records]
    files = {path.name: load_file(path) for path in out.glob("*.safetensors")}
    return {"records": timeless, "state": load_file(newest / "state.safetensors"), **files}


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert one["records"] == other["records"]
    for part in one.keys() - {"records"}:
        assert one[part].keys() == other[part].keys()
        different = [name for name, tensor in one[part].items() if not tensor.equal(other[part][name])]
        assert not different, f"{part}: {different[:3]}"


def assert_tidy(out: Path, keep: int = 2) -> None:
    """Nothing that a killed process left stays: at most `keep` checkpoints, no temporary file."""
    assert len(list((out / "checkpoints").iterdir())) <= keep
    assert not [
        path
        for path in (*out.iterdir(), *(out / "checkpoints").iterdir())
        if path.name.startswith(".") and path.name[-1].isdigit()
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A classifier's run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert (
        main.run([*CLASSIFIER, "--out", str(out)]) == 0
    )  # in this process, which so has imported all that the forks need
    return out


def continued(argv: list[str], out: Path, expected: dict) -> None:
    survived(command([*argv, "--out", out], out.parent / "output"), 0)
    assert_same(expected, result(out))
    assert_tidy(out)


def kill_at_random(argv: list[str], out: Path, chance: random.Random, steps: int) -> None:
    """SIGKILL at most 0.1 s after one of the first steps is recorded; a run that has ended by then begins anew."""
    for _ in range(5):
        child, at = command([*argv, "--out", out], out.parent / "output"), chance.randrange(steps)
        child.until(lambda at=at: recorded(out) >= at)
        child.until(lambda: False, seconds=chance.uniform(0, 0.1))
        child.kill()
        if child.code == -signal.SIGKILL:
            return
        assert child.code == 0, child.text[-500:]
        shutil.rmtree(out)
        steps = 3
    raise AssertionError(f"it had ended five times before it could be killed: {child.text[-500:]}")


def kill_in_a_save(argv: list[str], out: Path, place: str, save: int, after: bool) -> None:
    """SIGKILL just before or just after one of the calls of a save: of the file in part, of the rename, of the pruning."""

    def arm() -> None:
        calls, (owner, name) = [0], {
            "rename": (checkpoint.os, "rename"), "rmtree": (checkpoint.shutil, "rmtree")
        }.get(place, (checkpoint, place))  # fmt: skip
        real = getattr(owner, name)

        def deadly(*args, **options):
            calls[0] += 1
            if calls[0] < save:
                return real(*args, **options)
            if after:
                real(*args, **options)
                if place == "save_file":  # half of the file
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
            return os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, deadly)

    child = command([*argv, "--out", out], out.parent / "output", arm)
    assert child.wait() == -signal.SIGKILL, child.text[-500:]


def test_a_signal_and_a_kill_in_a_save(tmp_path):
    """The short form of what follows: one run, stopped by a signal, killed while it saves, and continued to the same bits."""
    argv, out, expected = [*CLASSIFIER, "--epochs", "1"], tmp_path / "run", tmp_path / "whole"
    assert main.run([*argv, "--out", str(expected)]) == 0
    stopped = command(
        [*argv, "--out", out], tmp_path / "output", partial(signal_in, phases()["a step"], signal.SIGTERM)
    )
    assert "Give the same command to continue" in survived(stopped, 143)
    assert recorded(out) < 16
    kill_in_a_save(argv, out, "rename", 1, after=False)
    continued(argv, out, result(expected))


@sizes(0, 35)
def test_random_kills(whole, tmp_path, request, tried):
    with scenario(
        "kill",
        "`kill -9` of a classifier's training (two micro-batches a step) at random instants, once to three times, each time "
        "continued with another number of loading processes",
        is_full(request),
    ) as now:
        expected = result(whole)
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                chance, out = random.Random(seed), tmp_path / str(seed) / "run"
                out.parent.mkdir()
                for number in range(1 + seed % 3):
                    workers = str((seed + number) % 3)
                    kill_at_random([*CLASSIFIER, "--runtime.workers", workers], out, chance, recorded(out) + 6)
                continued(CLASSIFIER, out, expected)
                shutil.rmtree(out.parent)


@sizes(0, 15)
def test_kills_inside_a_save(whole, tmp_path, request, tried):
    what = (
        "`kill -9` just before and just after each call of a checkpoint's writing (file, digest, sync, rename, pruning)"
    )
    places = [(place, after, save) for save in (7, 4) for place in reversed(SAVES) for after in (False, True)]
    with scenario("kill in a save", what, is_full(request)) as now:
        for place, after, save in places[-tried:]:
            with now.case(f"{place} {after} {save}"):
                out = tmp_path / f"{place}{after}{save}" / "run"
                out.parent.mkdir()
                kill_in_a_save(CLASSIFIER, out, place, save, after)
                continued(CLASSIFIER, out, result(whole))
                shutil.rmtree(out.parent)


@pytest.mark.parametrize(("task", "argv", "draw"), DENSE, ids=[task for task, *_ in DENSE])
@sizes(0, 6)
def test_kills_of_dense_tasks(task, argv, draw, tmp_path, request, tried):
    argv = [*argv, "--data", str(draw(tmp_path / "shapes", images=8, val_images=2, size=96))]
    what = f"`kill -9` of the training of a {task} at a random instant, half of them inside a save, and continued"
    with scenario(f"kill, {task}", what, is_full(request)) as now:
        out = tmp_path / "whole" / "run"
        out.parent.mkdir()
        survived(command([*argv, "--out", out], tmp_path / "output"), 0)
        expected = result(out)
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                out = tmp_path / str(seed) / "run"
                out.parent.mkdir()
                if seed % 2:
                    kill_in_a_save(argv, out, SAVES[seed % len(SAVES)], 2, after=seed % 4 == 1)
                else:
                    kill_at_random(argv, out, random.Random(seed), 5)
                continued(argv, out, expected)
                shutil.rmtree(out.parent)


def phases() -> dict[str, tuple[object, str, int]]:
    """A function that is called in each phase of a training, as (owner, its name there, the call that is meant)."""
    from convnext import training
    from convnext.classification import evaluate, task
    from convnext.data import loader
    from convnext.engine.loop import Run
    from convnext.engine.optim import SkippingAdamW
    from convnext.runtime import run_folder

    return {
        "a step": (task.ClassificationTask, "losses", 21),  # the second micro-batch of a step in the first epoch
        "opening the data": (training, "_check_validation", 1),
        "claiming the folder": (run_folder, "replace_text", 2),
        "loading a batch": (loader, "seed_cpu", 700),
        "the optimizer": (SkippingAdamW, "step_unless", 9),
        "an evaluation": (evaluate, "evaluate_batches", 1),
        "a save": (checkpoint, "save_file", 3),
        "the best weights": (Run, "_save_weights", 1),
        "the end": (training, "_finish", 1),
    }


def signal_in(phase: tuple[object, str, int], number: int) -> None:
    """Send this process a signal as the phase begins."""
    owner, function, which = phase
    real, calls = getattr(owner, function), [0]

    def signalled(*args, **options):
        calls[0] += 1
        if calls[0] == which:
            os.kill(os.getpid(), number)
        return real(*args, **options)

    setattr(owner, function, signalled)


@sizes(0, 18)
def test_signals_in_every_phase(whole, tmp_path, request, tried):
    """The signal comes from within the phase, so that it cannot miss it."""
    what = "SIGTERM and SIGINT in nine phases of a training: exit 143 or 130, continued to the same bits"
    cases = [(name, number) for name in phases() for number in (signal.SIGTERM, signal.SIGINT)]
    with scenario("signals", what, is_full(request)) as now:
        for name, number in cases[:tried]:
            with now.case(f"{name} {number.name}"):
                out = tmp_path / f"{name}{number}" / "run"
                out.parent.mkdir()

                arm = partial(signal_in, phases()[name], number)
                child = command([*CLASSIFIER, "--out", out], out.parent / "output", arm)
                # -SIGTERM, a shell's 143: where there is no run yet, or none any more, there is nothing to save
                before_and_after = name in ("opening the data", "claiming the folder", "the end")
                survived(child, 128 + number, *([-number] if before_and_after else []))
                continued(CLASSIFIER, out, result(whole))
                shutil.rmtree(out.parent)


def children(child: Child) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
    except OSError:
        return []


@sizes(0, 7)
def test_what_has_changed_is_refused(whole, tmp_path, request, tried):
    """On continuing: the config, the seed, the data, the classes, and a folder that holds something else."""
    with scenario(
        "changed",
        "continuing with another learning rate, seed, width of the model, precision, fingerprint of the data (images, labels, "
        "classes), a config of another version; a folder of other files",
        is_full(request),
    ) as now:
        out = tmp_path / "run"
        shutil.copytree(whole, out)
        (out / "summary.json").unlink()
        changes = {
            "learning rate": (["--optim.lr", "0.5"], "optim.lr"),
            "seed": (["--seed", "7"], "seed: 0 there, 7 now"),
            "model": (["--model.width-mult", "0.25"], "model.width_mult: 0.125 there, 0.25 now"),
            "precision": (["--precision", "bf16"], "precision: 'auto' there, 'bf16' now"),
        }
        for label, (words, expected) in changes.items():
            with now.case(label):
                said = survived(command([*CLASSIFIER, *words, "--out", out], tmp_path / "output"), 2)
                assert expected in said, said
        with now.case("data"):
            newest = max((out / "checkpoints").iterdir()) / "manifest.json"
            manifest = json.loads(newest.read_text())
            del manifest["digest"]
            newest.write_bytes(checkpoint._encode({**manifest, "data": "0" * 64}))
            said = survived(command([*CLASSIFIER, "--out", out], tmp_path / "output"), 2)
            assert "The training data has changed" in said
        with now.case("a field of another version"):
            config = json.loads((out / "config.json").read_text())
            (out / "config.json").write_text(json.dumps({**config, "of_the_future": 1}))
            said = survived(command([*CLASSIFIER, "--out", out], tmp_path / "output"), 2)
            assert "of_the_future" in said
        with now.case("a folder of other files"):
            other = tmp_path / "other"
            other.mkdir()
            (other / "thesis.txt").write_text("all of it")
            survived(command([*CLASSIFIER, "--out", other], tmp_path / "output"), 2)
            assert [path.name for path in other.iterdir() if path.name != ".lock"] == ["thesis.txt"]


@sizes(0, 3)
def test_two_jobs_in_one_folder(whole, tmp_path, request, tried):
    with scenario(
        "two jobs",
        "two trainings into one folder at the same time: one trains to the end, the other is refused",
        is_full(request),
    ) as now:
        for number in range(tried):
            with now.case(str(number)):
                out = tmp_path / str(number)
                children = [command([*CLASSIFIER, "--out", out], tmp_path / f"output{number}{k}") for k in range(2)]
                texts = [survived(child, 0, 2) for child in children]
                codes = sorted(child.code for child in children)
                assert codes == [0, 2], texts
                assert "Another process is training" in "".join(texts)
                assert_same(result(whole), result(out))
