"""Memory: of the device when it is used up, of this process and of the disk when a run saves a thousand times."""

import os
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from processes import Child, command, survived
from scenario import is_full, scenario, sizes
from test_damage import saved
from test_kills import CLASSIFIER, recorded

from convnext.engine import checkpoint

ERRORS = {
    "CUDA": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 96.00 MiB. GPU 0 has a total capacity of 79.10 GiB"
    ),
    "host": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
}


def exhausted(owner: object, function: str, which: int, error: RuntimeError) -> None:
    """The device is out of memory in the call number `which` of a function and in all later ones."""
    real, calls = getattr(owner, function), [0]

    def hooked(*args, **options):
        calls[0] += 1
        if calls[0] >= which:
            raise error
        return real(*args, **options)

    setattr(owner, function, hooked)


@sizes(0, 8)
def test_the_device_is_out_of_memory(tmp_path, request, tried):
    """Simulated: the error that PyTorch raises is raised in its place."""
    from convnext.classification import evaluate, task

    what = (
        "PyTorch's out-of-memory errors (GPU and host, simulated) in a step, in an evaluation, in evaluate, in predict: one "
        "sentence with the options that help, exit 2; the training goes on with one of them"
    )
    train = [*CLASSIFIER, "--epochs", "1"]
    step, evaluation, forward = (
        (task.ClassificationTask, "losses", 9),
        (evaluate, "evaluate_batches", 1),
        (torch.nn.Module, "__call__", 1),
    )
    with scenario("out of memory", what, is_full(request)) as now:
        run = tmp_path / "run"
        if tried > 1:
            survived(command([*train, "--out", run], tmp_path / "output"), 0)
        picture = tmp_path / "a.png"
        Image.new("RGB", (8, 8)).save(picture)
        cases = [
            (kind, *each)
            for kind in ERRORS
            for each in (
                ("a step", step, [*train, "--out", tmp_path / kind], ("--device-batch", "--runtime.eval-batch")),
                ("an evaluation", evaluation, [*train, "--out", tmp_path / f"{kind}2"], ("--runtime.eval-batch",)),
                ("predict", forward, ["predict", run, picture], ("--batch", "--image-size")),
                ("evaluate", forward, ["evaluate", run], ("--batch", "--image-size")),
            )
        ]
        for kind, name, place, argv, options in cases[:tried]:
            with now.case(f"{kind}, {name}"):
                said = survived(command(argv, tmp_path / "output", partial(exhausted, *place, ERRORS[kind])), 2)
                assert "out of memory" in said
                for option in options:
                    assert option in said
            if name == "a step":
                with now.case(f"{kind}, goes on with a smaller batch"):
                    out = tmp_path / kind
                    at = recorded(out)
                    said = survived(command([*train, "--device-batch", "15", "--out", out], tmp_path / "output"), 0)
                    assert "45 images per forward pass before, 15 now" in said or at == 0
                    assert recorded(out) == 15


@sizes(30, 1000)
def test_many_saves(tmp_path, request, tried):
    """Of the process: resident memory, open files, threads. Of the folder: files and bytes."""
    what = "1,000 checkpoints one after the other, one in ten again at its step: no more memory, open files or disk at the end"
    with scenario("1,000 saves", what, is_full(request)) as now:

        def facts() -> tuple[int, int, int]:
            rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            return int(rows["VmRSS"].split()[0]) // 1024, len(os.listdir("/proc/self/fd")), int(rows["Threads"])

        def disk() -> tuple[int, int]:
            found = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
            return len(found), sum(path.stat().st_size for path in found)

        def work() -> int:
            seen = []
            for number in range(tried):
                step = number - number // 10  # each tenth step twice
                saved(tmp_path / "checkpoints", step)
                if number in (tried // 10, tried - 1):
                    seen.append((*facts(), *disk()))
            (memory, files, threads, count, size), (memory2, files2, threads2, count2, size2) = seen
            print(f"{memory} -> {memory2} MB, {files} -> {files2} open files, {size} -> {size2} bytes")
            return (
                0
                if memory2 <= memory + 4
                and files2 == files
                and threads2 == threads
                and count2 <= count
                and (size2 <= size + 64)
                else 1
            )

        with now.case("saves"):
            child = Child(work, tmp_path / "output")
            assert child.wait(500) == 0, child.text
            now.note = child.text.strip()
            found = checkpoint.load_newest(tmp_path / "checkpoints")
            assert found
            assert found[1]["step"] == tried - 1 - (tried - 1) // 10
            assert len(list((tmp_path / "checkpoints").iterdir())) <= 3
        now.tried, now.survived = now.tried * tried, now.survived * tried
