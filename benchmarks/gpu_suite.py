"""Everything worth measuring on a GPU machine, in one command without network, within a budget of minutes.

    python benchmarks/gpu_suite.py --out DIR [--minutes 9.5] [--steps tests depthwise inference:tiny ..]

Steps run in order of importance, each in a process of its own (a kernel that fails takes no other step with it), and each
writes its JSON when it is done; a step whose time would not fit any more is left out and said so. `--steps` chooses some of
them, so that several visits to a machine cover all. The package need not be installed: PYTHONPATH=src is set for the steps.
The rows of models are those of `convnext benchmark --out`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

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
    "inference:base": 2.0,
    "train:base": 2.5,
    "autotune:tiny": 3.0,
    "swin:tiny": 1.5,
    "batch1:tiny": 1.5,
    "inference:small": 2.0,
    "inference:large": 2.0,
    "train:small": 2.5,
    "train:large": 2.5,
    "swin:small": 1.5,
    "swin:base": 1.5,
    "swin:large": 1.5,
    "autotune:base": 4.0,
    "autotune-train:tiny": 5.0,
}
"""Steps in order of importance, and the minutes without which none is begun."""
DEVICE = "cuda"
STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side and channels of ConvNeXt-T at 224 px
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--minutes", type=float, default=9.5, help="of all steps together")
    parser.add_argument(
        "--steps", nargs="+", choices=MINUTES, default=list(MINUTES), metavar="STEP", help=", ".join(MINUTES)
    )
    parser.add_argument("--one", choices=MINUTES, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
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

    training = kind in ("train", "autotune-train")
    choices = Choices(
        modes=("train",) if training else ("inference",),
        batches=(1,) if kind == "batch1" else (BATCH,),
        compiles=("max-autotune",) if kind.startswith("autotune") else ("none", "default"),
        ours={"compiles": ("none",)},
    )
    names = [SIZES[size], f"timm:{SWINS[size] if kind == 'swin' else SIZES[size]}"]
    device = torch.device(DEVICE)
    configs = expand(names, choices, device.type, networks.deployable)
    path = out / f"{kind}_{size}.json"
    results = Results.open(path, environment(device), " ".join(["python", *sys.argv]))
    benchmark(
        configs, device, results, rounds=10, seconds=0.3,
        show=lambda what, done, total: print(f"{done / total:5.0%} {what}", flush=True) if "round" not in what else None,
        time_left=lambda: deadline - time.time(),
    )  # fmt: skip
    for row in sorted(results.rows, key=lambda row: -row.get("images_per_second", {"p50": 0})["p50"]):
        config, speed = row["config"], row.get("images_per_second", {}).get("p50")
        how = [config["form"], config["compile"], config["layout"], *(["graph"] if config["graph"] else [])]
        said = row["error"] or f"{speed:10.1f} img/s  ratio {row.get('ratio')}  {row.get('peak_memory_mb')} MB"
        print(f"{config['model']:40} {' '.join(how):32} {said}", flush=True)


def measure_depthwise(path: Path) -> None:
    """Our depthwise convolution against cuDNN's, channels-last bf16: forward, with LayerNorm, and forward with backward."""
    import torch
    import torch.nn.functional as F

    from convnext.benchmark.ceilings import copy_bandwidth
    from convnext.ops.backend import backend
    from convnext.ops.depthwise_norm import depthwise_norm

    torch.backends.cudnn.benchmark = True
    device, dtype = torch.device(DEVICE), torch.bfloat16
    roof = copy_bandwidth(device)
    rows = []
    for side, channels in STAGES:
        shape = (BATCH, side, side, channels)
        element = dtype.itemsize * BATCH * side * side * channels
        number = max(2, -(-2 * 2**28 // element))  # several, so that the cache does not hold them
        xs = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(number)]
        grads = [torch.randn(shape, device=device, dtype=dtype) for _ in range(2)]
        weight = torch.randn(channels, 1, 7, 7, device=device, dtype=dtype).requires_grad_()
        vectors = [torch.randn(channels, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
        bias, g, b = vectors

        def cudnn(x, norm=True, weight=weight, bias=bias, g=g, b=b, channels=channels):
            y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=channels).permute(0, 2, 3, 1)
            return F.layer_norm(y, (channels,), g, b, 1e-6) if norm else y

        def ours(x, weight=weight, bias=bias, g=g, b=b):
            with backend("triton"):
                return depthwise_norm(x, weight, bias, g, b)

        leaves = (weight, *vectors)
        cases = {
            # bytes that must move: forward x, z; both directions x, z, and dz, x, the normalised values, dx
            "cudnn conv, forward": (lambda x, f=cudnn: f(x, norm=False), False, 2),
            "cudnn conv + LayerNorm, forward": (cudnn, False, 2),
            "ours conv + LayerNorm, forward": (ours, False, 2),
            "cudnn conv + LayerNorm, forward and backward": (cudnn, True, 7),
            "ours conv + LayerNorm, forward and backward": (ours, True, 7),
        }
        for name, seconds in time_in_turn(cases, xs, grads, leaves).items():
            row = {"shape": shape, "what": name, "dtype": "bf16"}
            if isinstance(seconds, str):
                row["error"] = seconds
            else:
                moved = cases[name][2] * element
                row |= {"microseconds": {p: round(1e6 * s, 2) for p, s in seconds.items()}}
                row |= {
                    "gb_per_second": round(moved / seconds["p50"] / 1e9, 1),
                    "share_of_copy": moved / seconds["p50"] / roof,
                }
                row["share_of_copy"] = round(row["share_of_copy"], 4)
            rows.append(row)
            print(json.dumps(row), flush=True)
        for direction in ("forward", "forward and backward"):
            p50 = {r["what"]: r["microseconds"]["p50"] for r in rows if r["shape"] == shape and "microseconds" in r}
            sides = [f"{who} conv + LayerNorm, {direction}" for who in ("cudnn", "ours")]
            if all(name in p50 for name in sides):
                rows.append(
                    {
                        "shape": shape,
                        "what": f"cudnn / ours, {direction}",
                        "ratio": round(p50[sides[0]] / p50[sides[1]], 3),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
        write(path, facts() | {"copy_gb_per_second": round(roof / 1e9, 1), "rows": rows})


def time_in_turn(cases: dict, xs: list, grads: list, leaves: tuple, rounds: int = 15, repeats: int = 10) -> dict:
    """{case: seconds of one call, p20, p50 and p80 over rounds; or an error}, every round visiting every case."""
    import torch

    from convnext.benchmark.throughput import reason, spread

    def call(f, backward: bool, i: int) -> None:
        x = xs[i % len(xs)]
        if backward:
            torch.autograd.grad(f(x), (x, *leaves), grads[i % len(grads)])
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
    """What a row is measured on and with."""
    import torch

    from convnext.benchmark.rows import environment

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return environment(torch.device(DEVICE)) | {"date": now, "command": " ".join(["python", *sys.argv])}


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
