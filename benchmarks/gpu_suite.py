"""Everything worth measuring on a GPU machine, in one command without network, within a budget of minutes.

    python benchmarks/gpu_suite.py --out DIR [--archive FILE] [--minutes 9.5] [--steps smoke depthwise inference:tiny ..]

Steps run in order of importance, each in a process group of its own (a kernel that fails takes no other step with it, and one
that hangs is ended with all its children), and write rows as they are measured; what a step prints goes to DIR/STEP.log and its
end to the terminal. A step whose time would not fit any more is left out and said so. `--steps` chooses some, so that several
visits to a machine cover all; four of ten minutes:

    smoke depthwise mlp inference:tiny tests      sweep blocks train:tiny profile
    autotune:tiny inference:base                  train:base autotune:base

The peers of ours are timm's ConvNeXt in every way that is known to be fast somewhere: {eager, compile, reduce-overhead,
max-autotune} x {NCHW, NHWC} x {linear layers, conv_mlp}. After every step DIR/best.json says what ours is over the best of them;
that ratio is called `ratio_to_the_best` when all sixteen were tried, and before `ratio_so_far`.

`--archive` packs DIR into one file after every step. The package need not be installed: PYTHONPATH=src is set for the steps.
The rows of models are those of `convnext benchmark --out`. `--device cpu` is a dry run on tiny shapes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
SIZES = {"tiny": "convnext_tiny", "small": "convnext_small", "base": "convnext_base", "large": "convnext_large"}
SWINS = {
    "tiny": "swin_tiny_patch4_window7_224",
    "small": "swin_small_patch4_window7_224",
    "base": "swin_base_patch4_window7_224",
    "large": "swin_large_patch4_window7_224",
}
MINUTES = {
    "smoke": 0.7,
    "depthwise": 0.7,
    "mlp": 0.7,
    "inference:tiny": 4.5,
    "tests": 2.5,
    "sweep": 3,
    "blocks": 0.7,
    "train:tiny": 6.0,
    "profile": 0.7,
    "recompute:tiny": 1.0,
    "inference:base": 3.5,
    "train:base": 3.5,
    "recompute:base": 1.0,
    "autotune:tiny": 5.0,
    "swin:tiny": 1.5,
    "batch1:tiny": 1.5,
    "batch1:base": 1.5,
    "train16:tiny": 2.5,
    "patchify": 0.7,
    "inference:small": 3.5,
    "inference:large": 3.5,
    "train:small": 3.5,
    "train:large": 3.5,
    "swin:small": 1.5,
    "swin:base": 1.5,
    "swin:large": 1.5,
    "autotune:base": 5.5,
    "autotune:small": 5.5,
    "autotune:large": 7.0,
    "autotune-train:tiny": 8.0,
    "autotune-train:base": 9.0,
}
"""Steps in order of importance, and the minutes without which none is begun.

smoke, depthwise, mlp, patchify: gpu_kernels.py; sweep, blocks, profile: gpu_sweep.py; inference, batch1, train and train16
(16 images; it and batch1 with and without a CUDA graph): ours (plain, and `deploy` in inference) and timm's; autotune: timm's
compilations that take longest; recompute: our training step with hidden layers made again; swin: Swins."""
DEVICE = "cuda"
BATCH = 256
ROUNDS, SECONDS = 10, 0.3
DRY = {"DEVICE": "cpu", "BATCH": 1, "ROUNDS": 1, "SECONDS": 0.001, "SIZES": dict.fromkeys(SIZES, "convnext_atto")}
COMPILES = {  # of the peers
    "inference": ("none", "default", "reduce-overhead"),
    "autotune": ("max-autotune",),
    "autotune-train": ("reduce-overhead", "max-autotune"),
    **dict.fromkeys(("train", "train16", "recompute", "swin", "batch1"), ("none", "default")),
}
PAIRS = {
    "inference": ("inference", "autotune"),
    "train": ("train", "autotune-train"),
}  # steps that try all peers between them
EVERY = {  # (compile, layout, conv_mlp)
    (how, layout, conv)
    for how in ("none", "default", "reduce-overhead", "max-autotune")
    for layout in ("nchw", "nhwc")
    for conv in (False, True)
}
CONV_MLP = ".conv_mlp"  # the tag by which `convnext benchmark` knows timm's form with 1x1 convolutions
NO_TIME = "not measured: the time was used up"  # the error of a row that says nothing of its peer
SCRIPTS = {"gpu_kernels": ("smoke", "depthwise", "mlp", "patchify"), "gpu_sweep": ("sweep", "blocks", "profile")}
SHARDS = 8  # processes of the tests
PATIENCE = 10  # seconds between SIGTERM and SIGKILL


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--minutes", type=float, default=9.5, help="of all steps together")
    parser.add_argument(
        "--steps", nargs="+", choices=MINUTES, default=list(MINUTES), metavar="STEP", help=", ".join(MINUTES)
    )
    parser.add_argument("--archive", type=Path, help="one .tar.gz of the folder, written after every step")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--one", choices=MINUTES, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        globals().update(DRY if arguments.device == "cpu" else {})
        run_step(arguments.one, arguments.out, arguments.deadline)
        return
    summary, end = [], time.time() + 60 * arguments.minutes
    for step in arguments.steps:
        summary.append(launch(step, arguments.out, end, arguments.device))
        write(arguments.out / "suite.json", {"command": " ".join(["python", *sys.argv]), "steps": summary})
        print(json.dumps(summary[-1]), flush=True)
        write(arguments.out / "best.json", best(arguments.out))
        if arguments.archive:
            with tarfile.open(arguments.archive, "w:gz") as archive:
                archive.add(arguments.out, arcname=arguments.out.name)
    sys.exit(any(step["result"] == "failed" for step in summary))


def launch(step: str, out: Path, end: float, device: str) -> dict:
    """Run a step in a process group of its own, until the time is used up."""
    began = time.time()
    if end - began < 60 * MINUTES[step]:
        return {"step": step, "result": "left out", "why": f"{(end - began) / 60:.1f} minutes are left"}
    print(f"== {step}", flush=True)
    log = out / f"{step.replace(':', '_')}.log"
    # a little before the end a step is asked to come to an end by itself, so that it can write what it has
    options = ["--out", str(out), "--device", device, "--deadline", str(end - 30)]
    script = next((name for name, steps in SCRIPTS.items() if step in steps), None)
    if script:
        command = [str(ROOT / f"benchmarks/{script}.py"), step, *options]
    else:
        command = [__file__, "--one", step, *options]
    code = run_logged([sys.executable, "-u", *command], log, end - began)
    print(*log.read_text(errors="replace").splitlines()[-40:], sep="\n", flush=True)
    result = {
        "step": step,
        "result": "done" if code == 0 else "failed",
        "minutes": round((time.time() - began) / 60, 2),
    }
    return result if code == 0 else {**result, "why": code}


def run_logged(command: Sequence[str], log: Path, seconds: float) -> int | str:
    """The exit status of a command whose output goes to `log`; its whole group is ended after `seconds`: asked, then killed."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout=max(seconds, 0))
        except subprocess.TimeoutExpired:
            for how, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, how)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
            return "the time was used up"


def run_step(step: str, out: Path, deadline: float) -> None:
    kind, _, size = step.partition(":")
    if kind == "tests":
        run_tests(out / "tests.json", deadline)
    else:
        measure_models(kind, size, out, deadline)


def run_tests(path: Path, deadline: float) -> None:
    """The tests that need a GPU, each process with a share of them and a log of its own, until the deadline."""
    began = time.time()
    base = [sys.executable, "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-o", "filterwarnings=default"]
    base += ["-p", "no:cacheprovider"]
    listed = subprocess.run([*base, "--collect-only", "-q", "tests/gpu"], cwd=ROOT, capture_output=True, text=True)
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    logs = [path.with_name(f"tests_{i}.log") for i in range(SHARDS) if names[i::SHARDS]]

    def shard(i: int) -> int | str:
        return run_logged([*base, "-v", "--tb=short", *names[i::SHARDS]], logs[i], deadline - time.time())

    with ThreadPoolExecutor(SHARDS) as pool:
        codes = list(pool.map(shard, range(len(logs))))
    said = [log.read_text(errors="replace") for log in logs]
    counts = {word: sum(text.count(f" {word} [") for text in said) for word in ("PASSED", "FAILED", "SKIPPED", "ERROR")}
    failures = [line for text in said for line in text.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    record = facts() | {"tests": len(names), "counts": counts, "exit_codes": codes, "failures": failures[:200]}
    write(path, record | {"seconds": round(time.time() - began, 1)})
    print(json.dumps(counts), *failures[:40], sep="\n", flush=True)
    sys.exit(not names or any(code != 0 for code in codes))


def measure_models(kind: str, size: str, out: Path, deadline: float) -> None:
    """Our model and timm's (or a Swin) in turn; `autotune` has the peers' slowest compilation, the others eager and compile."""
    import torch

    from convnext.benchmark import networks
    from convnext.benchmark.configs import Choices, expand
    from convnext.benchmark.rows import Results, environment
    from convnext.benchmark.run import benchmark
    from convnext.models.block import Block

    training = kind in ("train", "train16", "recompute", "autotune-train")
    choices = Choices(
        modes=("train",) if training else ("inference",),
        batches=({"batch1": 1, "train16": min(16, BATCH)}.get(kind, BATCH),),
        image_sizes=(224,) if DEVICE == "cuda" else (32,),
        compiles=COMPILES[kind] if DEVICE == "cuda" else ("none",),
        layouts=("nchw", "nhwc") if DEVICE == "cuda" else ("nchw",),
        graphs="both" if kind in ("batch1", "train16") and DEVICE == "cuda" else "off",
        ours={
            "compiles": ("none", "default") if kind == "train" and DEVICE == "cuda" else ("none",),
            "layouts": ("nhwc",),
        },
    )
    names = [SIZES[size], *peers(kind, size)]
    device = torch.device(DEVICE)
    configs = expand(names, choices, device.type, networks.deployable)
    path = out / f"{kind}_{size}.json"

    def show(what: str, done: int, total: int) -> None:
        if "round" not in what:
            print(f"{done / total:5.0%} {what}", flush=True)

    results = Results.open(path, environment(device), " ".join(["python", *sys.argv]))
    with patch.object(Block, "recompute_hidden", kind == "recompute"):
        benchmark(
            configs, device, results, rounds=ROUNDS, seconds=SECONDS, show=show, time_left=lambda: deadline - time.time()
        )  # fmt: skip
    for row in sorted(results.rows, key=lambda row: -row.get("images_per_second", {"p50": 0})["p50"]):
        config, speed = row["config"], row.get("images_per_second", {}).get("p50")
        how = [config["form"], config["compile"], config["layout"], *(["graph"] if config["graph"] else [])]
        said = row["error"] or f"{speed:10.1f} img/s  ratio {row.get('ratio')}  {row.get('peak_memory_mb')} MB"
        print(f"{config['model']:40} {' '.join(how):32} {said}", flush=True)


def peers(kind: str, size: str) -> list[str]:
    """The peers of a step, by the names of `convnext benchmark`."""
    if kind == "recompute":
        return []
    name = f"timm:{(SWINS if kind == 'swin' else SIZES)[size]}"
    return [name] if kind in ("swin", "batch1", "train16") else [name, f"{name}{CONV_MLP}"]


def best(out: Path) -> list[dict]:
    """For each mode and size the speed of ours over that of the fastest peer, and what of EVERY was tried, from DIR's rows.

    A step's ratio is of what took turns in it; the least of the steps' is taken. A peer that failed by itself was tried.
    """
    found = []
    for mode, size in product(PAIRS, SIZES):
        tried, failed, ratios = set(), [], []
        for path in (out / f"{kind}_{size}.json" for kind in PAIRS[mode]):
            ours, theirs = [], []
            for row in json.loads(path.read_text())["rows"] if path.exists() else []:
                config, mine = row["config"], row["library"] == "ours"
                way = config["compile"], config["layout"], config["model"].endswith(CONV_MLP)
                if row["error"] == NO_TIME:
                    continue
                if not mine:
                    tried.add(way)
                if row["error"]:
                    failed.append({"model": config["model"], "way": way, "error": row["error"]})
                else:
                    label = " ".join((config["model"], config["form"], *way[:2]))
                    (ours if mine else theirs).append((row["images_per_second"]["p50"], label))
            if ours and theirs:
                (speed, label), (other, peer) = max(ours), max(theirs)
                ratios.append((round(speed / other, 4), label, peer))
        if ratios:
            ratio, label, peer = min(ratios)
            name = "ratio_so_far" if EVERY - tried else "ratio_to_the_best"
            row = {"mode": mode, "size": size, name: ratio, "ours": label, "theirs": peer, "failed": failed}
            found.append(row | {"not_tried": sorted(EVERY - tried)})
    return found


def facts() -> dict:
    """Device, versions, commit, date and command of a row."""
    import torch

    from convnext.benchmark.rows import environment

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return environment(torch.device(DEVICE)) | {"date": now, "command": " ".join(["python", *sys.argv])}


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
