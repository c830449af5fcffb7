"""Runs that are killed, stopped and started twice, each in a real process: none loses more than the steps since its checkpoint."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from processes import Child, command, survived
from safetensors.torch import load_file
from scenario import is_full, scenario, sizes

from convnext.cli import main
from convnext.data.shapes import write_shapes_semantic
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
    child = command([*argv, "--out", out], out.parent / "output")
    at = chance.randrange(steps)
    child.until(lambda: recorded(out) >= at)
    child.until(lambda: False, seconds=chance.uniform(0, 0.1))
    child.kill()
    assert child.code == -signal.SIGKILL, f"it had ended before it could be killed: {child.text[-500:]}"


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


@sizes(0, 12)
def test_random_kills(whole, tmp_path, request, tried):
    with scenario(
        "kill",
        "`kill -9` of a classifier's training at a random instant, once to three times, and continued",
        is_full(request),
    ) as now:
        expected = result(whole)
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                chance, out = random.Random(seed), tmp_path / str(seed) / "run"
                out.parent.mkdir()
                for _ in range(1 + seed % 3):
                    kill_at_random(
                        [*CLASSIFIER, "--runtime.workers", str(2 * (seed % 2))], out, chance, recorded(out) + 6
                    )
                continued(CLASSIFIER, out, expected)
                shutil.rmtree(out.parent)


@sizes(0, 10)
def test_kills_inside_a_save(whole, tmp_path, request, tried):
    what = (
        "`kill -9` just before and just after each call of a checkpoint's writing (file, digest, sync, rename, pruning)"
    )
    places = [(place, after) for place in SAVES for after in (False, True)]
    with scenario("kill in a save", what, is_full(request)) as now:
        for number, (place, after) in enumerate(places[:tried]):
            with now.case(f"{place} {after}"):
                out = tmp_path / str(number) / "run"
                out.parent.mkdir()
                kill_in_a_save(CLASSIFIER, out, place, 4, after)
                continued(CLASSIFIER, out, result(whole))
                shutil.rmtree(out.parent)


@sizes(0, 3)
def test_kills_of_a_segmenter(tmp_path, request, tried):
    data = write_shapes_semantic(tmp_path / "shapes", images=8, val_images=2, size=96)
    argv = [*SEGMENTER, "--data", str(data)]
    with scenario(
        "kill, dense", "`kill -9` of a segmenter's training at a random instant, and continued", is_full(request)
    ) as now:
        out = tmp_path / "whole" / "run"
        out.parent.mkdir()
        survived(command([*argv, "--out", out], tmp_path / "output"), 0)
        expected = result(out)
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                out = tmp_path / str(seed) / "run"
                out.parent.mkdir()
                kill_at_random(argv, out, random.Random(seed), 5)
                continued(argv, out, expected)
                shutil.rmtree(out.parent)


@sizes(0, 8)
def test_signals_in_every_phase(whole, tmp_path, request, tried):
    what = "SIGTERM and SIGINT as the run begins, in a step, at a save, near the end: exit 143 or 130, continued to the same bits"
    phases = {"begin": 0, "step": 4, "save": 15, "end": 21}
    with scenario("signals", what, is_full(request)) as now:
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            for phase, step in list(phases.items())[: tried // 2]:
                with now.case(f"{phase} {code}"):
                    out = tmp_path / f"{phase}{code}" / "run"
                    out.parent.mkdir()
                    child = command([*CLASSIFIER, "--out", out], out.parent / "output")
                    child.until(lambda out=out, step=step: (out / "metrics.jsonl").exists() and recorded(out) >= step)
                    child.signal(number)
                    # -SIGTERM, a shell's 143: before the first step, when there is nothing to save
                    survived(child, code, *([-number] if phase == "begin" else []))
                    continued(CLASSIFIER, out, result(whole))


@sizes(0, 4)
def test_killed_workers(whole, tmp_path, request, tried):
    with scenario(
        "killed worker",
        "a data loading process is killed: one sentence, exit 2, continued to the same bits",
        is_full(request),
    ) as now:
        for seed in range(tried):
            with now.case(f"seed {seed}"):
                out = tmp_path / str(seed) / "run"
                out.parent.mkdir()
                child = command([*CLASSIFIER, "--runtime.workers", "2", "--out", out], out.parent / "output")
                child.until(lambda out=out, seed=seed, child=child: recorded(out) >= 3 * seed and bool(children(child)))
                if workers := children(child):
                    os.kill(workers[seed % len(workers)], signal.SIGKILL)
                assert "A data loading process was killed" in survived(child, 2)
                continued(CLASSIFIER, out, result(whole))


def children(child: Child) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
    except OSError:
        return []


@sizes(0, 5)
def test_what_has_changed_is_refused(whole, tmp_path, request, tried):
    """On continuing: the config, the seed, the data, the classes, and a folder that holds something else."""
    with scenario(
        "changed",
        "continuing with another learning rate, seed, width of the model, fingerprint of the data; a folder of other files",
        is_full(request),
    ) as now:
        out = tmp_path / "run"
        shutil.copytree(whole, out)
        (out / "summary.json").unlink()
        changes = {
            "learning rate": (["--optim.lr", "0.5"], "optim.lr"),
            "seed": (["--seed", "7"], "seed: 0 there, 7 now"),
            "model": (["--model.width-mult", "0.25"], "model.width_mult: 0.125 there, 0.25 now"),
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
