"""Everything worth measuring on a GPU machine, in one command without network, within a budget of minutes.

    python benchmarks/gpu_suite.py --out DIR [--minutes 9.5] [--steps tests depthwise inference:tiny ..]

Steps run in order of importance, each in a process of its own (a kernel that fails takes no other step with it), and each
writes its JSON when it is done; a step whose time would not fit any more is left out and said so. `--steps` chooses some of
them, so that several visits to a machine cover all. The package need not be installed: PYTHONPATH=src is set for the steps.
The rows of models are those of `convnext benchmark --out`.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import cycle
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
    "tests": 2.5,
    "depthwise": 0.7,
    "inference:tiny": 1.5,
    "train:tiny": 2.0,
    "recompute:tiny": 1.0,
    "inference:base": 2.0,
    "train:base": 2.5,
    "recompute:base": 1.0,
    "autotune:tiny": 3.0,
    "swin:tiny": 1.5,
    "batch1:tiny": 1.5,
    "batch1:base": 1.5,
    "patchify": 0.7,
    "inference:small": 2.0,
    "inference:large": 2.0,
    "train:small": 2.5,
    "train:large": 2.5,
    "swin:small": 1.5,
    "swin:base": 1.5,
    "swin:large": 1.5,
    "autotune:base": 4.0,
    "autotune:small": 4.0,
    "autotune:large": 5.0,
    "autotune-train:tiny": 5.0,
    "autotune-train:base": 6.0,
}
"""Steps in order of importance, and the minutes without which none is begun.

inference, batch1 (with and without a CUDA graph) and train: ours (plain, and `deploy` in inference) and timm's, eager and
compiled; autotune: timm's with max-autotune; recompute: our training step with hidden layers made again; swin: Swins."""
DEVICE = "cuda"
STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side and channels of ConvNeXt-T at 224 px
BATCH = 256
ROUNDS, SECONDS = 10, 0.3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--minutes", type=float, default=9.5, help="of all steps together")
    parser.add_argument(
        "--steps", nargs="+", choices=MINUTES, default=list(MINUTES), metavar="STEP", help=", ".join(MINUTES)
    )
    parser.add_argument("--one", choices=MINUTES, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        run_step(arguments.one, arguments.out, arguments.deadline)
        return
    summary, end = [], time.time() + 60 * arguments.minutes
    for step in arguments.steps:
        summary.append(launch(step, arguments.out, end))
        write(arguments.out / "suite.json", {"command": " ".join(["python", *sys.argv]), "steps": summary})
        print(json.dumps(summary[-1]), flush=True)
    sys.exit(any(step["result"] == "failed" for step in summary))


def launch(step: str, out: Path, end: float) -> dict:
    """Run a step in a process of its own, until the time is used up."""
    began = time.time()
    if end - began < 60 * MINUTES[step]:
        return {"step": step, "result": "left out", "why": f"{(end - began) / 60:.1f} minutes are left"}
    print(f"== {step}", flush=True)
    # a little before the end a step is asked to come to an end by itself, so that it can write what it has
    command = [sys.executable, __file__, "--out", str(out), "--one", step, "--deadline", str(end - 30)]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    try:
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, timeout=end - began).returncode
    except subprocess.TimeoutExpired:
        code = "the time was used up"
    result = {
        "step": step,
        "result": "done" if code == 0 else "failed",
        "minutes": round((time.time() - began) / 60, 2),
    }
    return result if code == 0 else {**result, "why": code}


def run_step(step: str, out: Path, deadline: float) -> None:
    kind, _, size = step.partition(":")
    if kind == "tests":
        run_tests(out / "tests.json")
    elif kind == "depthwise":
        measure_depthwise(out / "depthwise.json")
    elif kind == "patchify":
        measure_patchify(out / "patchify.json")
    else:
        measure_models(kind, size, out, deadline)


def run_tests(path: Path) -> None:
    """The tests that need a GPU."""
    began = time.time()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu",
        "-m",
        "gpu",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "-q",
    ]
    done = subprocess.run(
        [*command, "--tb=short"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout[-4000:], flush=True)
    record = facts() | {"exit_code": done.returncode, "seconds": round(time.time() - began, 1)}
    write(path, record | {"output": done.stdout.splitlines()[-200:]})
    sys.exit(done.returncode)


def measure_models(kind: str, size: str, out: Path, deadline: float) -> None:
    """Our model and timm's (or a Swin) in turn; `autotune` has the peers' slowest compilation, the others eager and compile."""
    import torch

    from convnext.benchmark import networks
    from convnext.benchmark.configs import Choices, expand
    from convnext.benchmark.rows import Results, environment
    from convnext.benchmark.run import benchmark
    from convnext.models.block import Block

    training = kind in ("train", "recompute", "autotune-train")
    choices = Choices(
        modes=("train",) if training else ("inference",),
        batches=(1,) if kind == "batch1" else (BATCH,),
        compiles=("max-autotune",) if kind.startswith("autotune") else ("none", "default"),
        ours={"compiles": ("none", "default") if kind == "train" else ("none",)},
    )
    names = [SIZES[size], f"timm:{SWINS[size] if kind == 'swin' else SIZES[size]}"][: 1 if kind == "recompute" else 2]
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


def measure_depthwise(path: Path) -> None:
    """Our depthwise convolution against cuDNN's, channels-last bf16: forward and backward, alone and with LayerNorm."""
    import torch
    import torch.nn.functional as F

    from convnext.benchmark.ceilings import copy_bandwidth
    from convnext.ops._triton import depthwise
    from convnext.ops.backend import backend
    from convnext.ops.depthwise_norm import depthwise_norm

    torch.backends.cudnn.benchmark = True
    device, dtype = torch.device(DEVICE), torch.bfloat16
    roof = copy_bandwidth(device)
    rows = []
    for side, channels in STAGES:
        shape = (BATCH, side, side, channels)
        element = dtype.itemsize * BATCH * side * side * channels
        xs, grads = rotated(shape), rotated(shape)[:2]
        weight = torch.randn(channels, 1, 7, 7, device=device, dtype=dtype).requires_grad_()
        vectors = [torch.randn(channels, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
        turn = cycle(grads)

        def cudnn(x, norm=True, weight=weight, vectors=vectors, channels=channels):
            bias, g, b = vectors
            y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=channels).permute(0, 2, 3, 1)
            return F.layer_norm(y, (channels,), g, b, 1e-6) if norm else y

        def cudnn_backward(x, weight=weight, turn=turn, channels=channels):
            dy, x = (t.permute(0, 3, 1, 2) for t in (next(turn), x))
            how = [1, 1], [3, 3], [1, 1], False, [0, 0], channels, [True, True, True]
            return torch.ops.aten.convolution_backward(dy, x, weight, [channels], *how)

        def ours(x, weight=weight, vectors=vectors):
            with backend("triton"):
                return depthwise_norm(x, weight, *vectors)

        def ours_backward(x, weight=weight, turn=turn):
            dy = next(turn)
            return depthwise.input_gradient(dy, weight), depthwise.weight_gradient(x, dy)

        cases = {
            # tensors that must move: x, z; dz, x, dx; with LayerNorm in both directions x, z and dz, x, the normalised, dx
            "cudnn conv, forward": (lambda x, f=cudnn: f(x, norm=False), False, 2),
            "ours conv, forward": (lambda x, w=weight: depthwise.input_gradient(x, w), False, 2),  # the same, turned
            "cudnn conv, backward": (cudnn_backward, False, 3),
            "ours conv, backward": (ours_backward, False, 3),
            "cudnn conv + LayerNorm, forward": (cudnn, False, 2),
            "ours conv + LayerNorm, forward": (ours, False, 2),
            "cudnn conv + LayerNorm, forward and backward": (cudnn, True, 7),
            "ours conv + LayerNorm, forward and backward": (ours, True, 7),
        }
        found = time_in_turn(cases, xs, grads, (weight, *vectors))
        rows += rows_of(found, shape, {name: moved * element for name, (*_, moved) in cases.items()}, roof)
        write(path, facts() | {"copy_gb_per_second": round(roof / 1e9, 1), "rows": rows})


def measure_patchify(path: Path) -> None:
    """The stem and the downsampling layers of a Tiny: cuDNN's convolution against a product over gathered patches, bf16."""
    import torch
    from torch import nn

    from convnext.ops.backend import backend
    from convnext.ops.patchify import patches_module, patchify

    torch.backends.cudnn.benchmark = True
    rows = []
    for (side, before), after, kernel in (((224, 3), 96, 4), *((stage, 2 * stage[1], 2) for stage in STAGES[:3])):
        conv = nn.Conv2d(before, after, kernel, stride=kernel, device=DEVICE, dtype=torch.bfloat16)
        shape, stem = (BATCH, side, side, before), before == 3
        if stem:  # an image has no gradient, and lies in memory channel by channel
            xs = [x.detach().permute(0, 2, 3, 1) for x in rotated((BATCH, before, side, side))]
        else:
            xs = rotated(shape)

        def cudnn(x, conv=conv):
            with backend("reference"):
                return patches_module(conv, x)

        def ours(x, conv=conv):
            return patchify(x, conv.weight, conv.bias)

        grads = rotated((BATCH, side // kernel, side // kernel, after))[:2]
        cases = {
            f"{who} {'stem' if stem else 'downsampling'}, {direction}": (f, direction != "forward", 0)
            for direction in ("forward", "forward and backward")
            for who, f in (("cudnn", cudnn), ("ours", ours))
        }
        rows += rows_of(time_in_turn(cases, xs, grads, tuple(conv.parameters())), shape)
        write(path, facts() | {"rows": rows})


def rotated(shape: tuple[int, ...]) -> list:
    """Random bf16 tensors, as many as no cache holds, and two at least."""
    import torch

    number = max(2, -(-(2**28) // math.prod(shape)))
    return [torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for _ in range(number)]


def rows_of(found: dict, shape: tuple[int, ...], moved: dict | None = None, roof: float = 1.0) -> list[dict]:
    """A row for each time or error, with the share of the copy bandwidth at which `moved` bytes went, and cudnn / ours."""
    rows: list[dict] = []
    for name, seconds in found.items():
        row = {"shape": shape, "what": name, "dtype": "bf16"}
        if isinstance(seconds, str):
            rows.append(row | {"error": seconds})
            continue
        row["microseconds"] = {p: round(1e6 * s, 2) for p, s in seconds.items()}
        if moved:
            speed = moved[name] / seconds["p50"]
            row |= {"gb_per_second": round(speed / 1e9, 1), "share_of_copy": round(speed / roof, 4)}
        rows.append(row)
    for name, seconds in found.items():
        ours = found.get(name.replace("cudnn", "ours"))
        if name.startswith("cudnn") and not isinstance(seconds, str) and not isinstance(ours, str | None):
            what = name.replace("cudnn", "cudnn / ours")
            rows.append({"shape": shape, "what": what, "ratio": round(seconds["p50"] / ours["p50"], 3)})
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def time_in_turn(cases: dict, xs: list, grads: list, leaves: tuple, rounds: int = 15, repeats: int = 10) -> dict:
    """{case: seconds of one call, p20, p50 and p80 over rounds; or an error}, every round visiting every case."""
    import torch

    from convnext.benchmark.throughput import reason, spread

    def call(f, backward: bool, i: int) -> None:
        x = xs[i % len(xs)]
        if backward:
            torch.autograd.grad(f(x), (x, *leaves) if x.requires_grad else leaves, grads[i % len(grads)])
        else:
            with torch.inference_mode():
                f(x)

    samples: dict[str, list[float]] = {name: [] for name in cases}
    errors: dict[str, str] = {}
    for turn in range(-2, rounds):  # two rounds to compile and to warm up
        for name, (f, backward, _) in cases.items():
            if name in errors:
                continue
            try:
                call(f, backward, 0)
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for i in range(repeats):
                    call(f, backward, i + 1)
                end.record()
                end.synchronize()
            except Exception as error:  # one of them that fails is a row
                errors[name] = reason(error)
                continue
            if turn >= 0:
                samples[name].append(start.elapsed_time(end) / 1000 / repeats)
    return {name: errors.get(name) or spread(times) for name, times in samples.items()}


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
