"""The kernels one by one on a GPU: are they right, and how fast are they. One step of `gpu_suite.py`, or by itself.

    python benchmarks/gpu_kernels.py smoke|depthwise|mlp|patchify --out DIR [--device cuda]

smoke compares each kernel once, forward and every gradient, with fp64, in memory that was filled with NaN before. depthwise,
mlp and patchify take turns with cuDNN and cuBLAS. Times are those of a CUDA graph of ten calls, so that Python's time is in
none.
`--device cpu` is a dry run on tiny shapes, in PyTorch's own operations: it shows that the steps run, not how fast.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.benchmark.ceilings import copy_bandwidth
from convnext.benchmark.gpu_state import gpu_state
from convnext.benchmark.rows import environment
from convnext.benchmark.throughput import reason, spread
from convnext.models.block import Block, Blocks
from convnext.ops import depthwise_norm, mlp, patchify
from convnext.ops.backend import backend

REAL = {"batch": 256, "stages": ((56, 96), (28, 192), (14, 384), (7, 768)), "rounds": 15, "repeats": 10}
DRY = {"batch": 1, "stages": ((7, 16), (4, 40)), "rounds": 1, "repeats": 1}
SMOKE = (16, 40, 96, 128, 192, 256, 384, 768)  # channels
TOLERANCE = 0.08  # of the largest |value|: bf16 rounds each of a few stages by 2^-9


class Bench:
    """A device, the shapes that are measured on it, and where rows go: the file is written after every row."""

    def __init__(self, device: str, path: Path, deadline: float):
        self.device, self.path, self.deadline = torch.device(device), path, deadline
        self.real = device == "cuda"
        self.settings: dict[str, Any] = REAL if self.real else DRY
        self.stages = self.settings["stages"]
        self.kernels = "triton" if self.real else "reference"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.result = environment(self.device) | {"date": now, "command": " ".join(["python", *sys.argv]), "rows": []}
        if self.real:
            torch.backends.cudnn.benchmark = True

    def add(self, *rows: dict) -> None:
        state = gpu_state() if self.real else None
        self.result["rows"] += [row | {"gpu": state} for row in rows]
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")
        for row in rows:
            print(json.dumps(row), flush=True)

    def left(self) -> bool:
        return time.time() < self.deadline

    def rotated(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Random bf16 tensors, as many as no cache holds, and two at least."""
        number = max(2, -(-(2**28) // math.prod(shape))) if self.real else 2
        made = [torch.randn(shape, device=self.device, dtype=torch.bfloat16) for _ in range(number)]
        return [x.requires_grad_() for x in made]

    def time_in_turn(self, cases: dict[str, tuple], xs: list, grads: list, leaves: tuple) -> dict[str, Any]:
        """{case: seconds of one call, p20, p50 and p80 over rounds; or an error}, every round visiting every case."""
        repeats = self.settings["repeats"]

        def calls(f: Callable, backward: bool) -> None:
            for i in range(repeats):
                x = xs[i % len(xs)]
                if backward:
                    torch.autograd.grad(f(x), (x, *leaves) if x.requires_grad else leaves, grads[i % len(grads)])
                else:
                    with torch.no_grad():
                        f(x)

        replays: dict[str, Callable] = {}
        errors: dict[str, str] = {}
        for name, (f, backward, _) in cases.items():
            try:
                replays[name] = self.replay(lambda f=f, backward=backward: calls(f, backward))
            except Exception as error:  # one of them that fails is a row
                errors[name] = reason(error)
        samples: dict[str, list[float]] = {name: [] for name in replays}
        for turn in range(-1, self.settings["rounds"]):
            for name, call in replays.items():
                seconds = self.timed(call)
                if turn >= 0:
                    samples[name].append(seconds / repeats)
        return {name: errors.get(name) or spread(samples[name]) for name in cases}

    def replay(self, call: Callable[[], None]) -> Callable[[], None]:
        """On a GPU the replay of a CUDA graph of the call."""
        call()
        if not self.real:
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def timed(self, call: Callable[[], None]) -> float:
        if not self.real:
            began = time.perf_counter()
            call()
            return time.perf_counter() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def smoke(bench: Bench) -> None:
    """Each kernel, forward and every gradient, against fp64: a bf16 and an fp32 residual, hidden layer kept and made again."""
    mlps = [(f"mlp {form}", perceived(form)) for form in FORMS]
    ways = wide_ways(mlps) if bench.real else []
    for channels in SMOKE if bench.real else (16, 40):
        shape = (2, 9, 11, channels)
        wide = ways if channels > 192 else []
        for what, run in (("depthwise_norm", convolved), *mlps, *wide, ("blocks autocast", chained)):
            poison(bench.device)
            row: dict[str, Any] = {"what": what, "channels": channels}
            try:
                with backend(bench.kernels):
                    found = run(shape, torch.bfloat16, bench.device)
                with backend("reference"):
                    exact = run(shape, torch.float64, bench.device)
                row["errors"] = {n: round(error(found[n], exact[n]), 5) for n in exact}
                row["ok"] = all(e <= TOLERANCE for e in row["errors"].values())  # a NaN is not
            except Exception as failure:
                row |= {"ok": False, "error": reason(failure)}
            bench.add(row)
    failed = [row for row in bench.result["rows"] if not row["ok"]]
    sys.exit(f"{len(failed)} of {len(bench.result['rows'])} differ from fp64 or failed" if failed else 0)


FORMS = {  # dtype of the residual, recompute
    "bf16 residual": (torch.bfloat16, False),
    "fp32 residual": (torch.float32, False),
    "fp32 residual, made again": (torch.float32, True),
}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-12))


def poison(device: torch.device) -> None:
    """Fill memory that `torch.empty` will hand out next with NaN: what a kernel does not write shows."""
    blocks = [torch.full((2**size,), math.nan, device=device) for size in range(10, 22)]
    del blocks


def drawn(dtype: torch.dtype, device: torch.device, *shapes: tuple) -> list[Tensor]:
    """The same numbers in every dtype, as bf16 has them."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) * scale for shape, scale in shapes]
    return [t.to(torch.bfloat16).to(device, dtype).requires_grad_() for t in made]


def with_gradients(names: Sequence[str], given: Sequence[Tensor], out: Tensor) -> dict[str, Tensor]:
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    gradients = torch.autograd.grad(out, given, seed.to(out.device, out.dtype))
    return {"out": out.detach()} | {f"d{name}": g for name, g in zip(names, gradients, strict=True)}


def convolved(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    c = shape[-1]
    given = drawn(dtype, device, (shape, 1), ((c, 1, 7, 7), 0.14), ((c,), 0.3), ((c,), 1), ((c,), 0.3))
    return with_gradients(("x", "w", "b", "g", "nb"), given, depthwise_norm.depthwise_norm(*given))


def perceived(form: str) -> Callable[[tuple[int, ...], torch.dtype, torch.device], dict[str, Tensor]]:
    residual, recompute = FORMS[form]

    def run(shape, dtype, device):
        c = shape[-1]
        sizes = ((shape, 1), (shape, 1), ((4 * c, c), c**-0.5), ((4 * c,), 0.3), ((c, 4 * c), (2 * c) ** -0.5))
        x, *given = drawn(dtype, device, *sizes, ((c,), 0.3), ((c,), 1))
        if dtype == torch.bfloat16:
            x = x.detach().to(residual).requires_grad_()
        scale = torch.tensor([0.0, 2.0], device=device)
        out = mlp.mlp_residual(x, *given, scale=scale, recompute=recompute)
        return with_gradients(("x", "y", "w1", "b1", "w2", "b2", "gamma"), (x, *given), out)

    return run


def wide_ways(mlps: list[tuple[str, Callable]]) -> list[tuple[str, Callable]]:
    """The same in every way that a wide layer's products have."""
    from convnext.ops._triton import products

    def taken(way, run):
        def call(*arguments):
            with patch.object(products, "way", lambda *_: way):
                return run(*arguments)

        return call

    ways = [way for way in products.WAYS if way.name != "tiles"]
    return [(f"{what}, {' '.join(map(str, way))}", taken(way, run)) for way in ways for what, run in mlps]


def chained(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Two blocks in training, in bf16 by autocast, as in a network's stage: each is one operation, with a twin between them."""
    torch.manual_seed(0)
    blocks = Blocks(*(Block(shape[-1], layer_scale_init_value=1.0) for _ in range(2))).to(device)
    low = dtype == torch.bfloat16
    blocks = blocks if low else blocks.to(dtype)
    (x,) = drawn(torch.float32 if low else dtype, device, (shape, 1))
    with torch.autocast(device.type, dtype if low else None, enabled=low):
        out = blocks(x)
    parameters = dict(blocks.named_parameters())
    return with_gradients(("x", *parameters), (x, *parameters.values()), out)


def measure_depthwise(bench: Bench) -> None:
    """Our depthwise convolution against cuDNN's in both layouts, bf16: forward and backward, alone and with LayerNorm."""
    from convnext.ops._triton import depthwise

    roof = copy_bandwidth(bench.device) if bench.real else 1.0
    bench.result["copy_gb_per_second"] = round(roof / 1e9, 1)
    for side, channels in bench.stages:
        shape = (bench.settings["batch"], side, side, channels)
        element = 2 * math.prod(shape)
        xs, grads = bench.rotated(shape), bench.rotated(shape)[:2]
        weight = torch.randn(channels, 1, 7, 7, device=bench.device, dtype=torch.bfloat16).requires_grad_()
        vectors = [torch.randn(channels, device=bench.device, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
        planes = {id(x): x.detach().permute(0, 3, 1, 2).contiguous() for x in (*xs, *grads)} if bench.real else {}
        turn = cycle(grads)

        def cudnn(x, norm=True, weight=weight, vectors=vectors, channels=channels):
            bias, g, b = vectors
            y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=channels).permute(0, 2, 3, 1)
            return F.layer_norm(y, (channels,), g, b, 1e-6) if norm else y

        def cudnn_planes(x, weight=weight, vectors=vectors, channels=channels, planes=planes):
            return F.conv2d(planes.get(id(x), x.permute(0, 3, 1, 2)), weight, vectors[0], padding=3, groups=channels)

        def cudnn_backward(x, weight=weight, turn=turn, channels=channels):
            dy, x = (t.permute(0, 3, 1, 2) for t in (next(turn), x))
            how = [1, 1], [3, 3], [1, 1], False, [0, 0], channels, [True, True, True]
            return torch.ops.aten.convolution_backward(dy, x, weight, [channels], *how)

        def ours(x, weight=weight, vectors=vectors):
            with backend(bench.kernels):
                return depthwise_norm.depthwise_norm(x, weight, *vectors)

        cases = {
            # tensors that must move: x, z; dz, x, dx; with LayerNorm in both directions x, z and dz, x, the normalised, dx
            "cudnn conv, forward": (lambda x, f=cudnn: f(x, norm=False), False, 2),
            "cudnn NCHW conv, forward": (cudnn_planes, False, 2),
            "cudnn conv, backward": (cudnn_backward, False, 3),
            "cudnn conv + LayerNorm, forward": (cudnn, False, 2),
            "ours conv + LayerNorm, forward": (ours, False, 2),
            "cudnn conv + LayerNorm, forward and backward": (cudnn, True, 7),
            "ours conv + LayerNorm, forward and backward": (ours, True, 7),
        }
        if bench.real:  # kernels that have no form in PyTorch's operations

            def ours_backward(x, weight=weight, turn=turn):
                dy = next(turn)
                return depthwise.input_gradient(dy, weight), depthwise.weight_gradient(x, dy)

            cases |= {
                "ours conv, forward": (lambda x, w=weight: depthwise.input_gradient(x, w), False, 2),  # turned
                "ours conv, backward": (ours_backward, False, 3),
            }
        found = bench.time_in_turn(cases, xs, grads, (weight, *vectors))
        bench.add(*rows_of(found, shape, {name: moved * element for name, (*_, moved) in cases.items()}, roof))


def measure_mlp(bench: Bench) -> None:
    """The second half of a block: the fused kernel, two products with epilogues, and cuBLAS with GELU apart."""
    from convnext.ops._triton import mlp as kernels

    for side, channels in bench.stages:
        shape, c = (bench.settings["batch"], side, side, channels), channels
        xs, grads = bench.rotated(shape), bench.rotated(shape)[:2]
        sizes = (((4 * c, c), c**-0.5), ((4 * c,), 0.3), ((c, 4 * c), (2 * c) ** -0.5), ((c,), 0.3), ((c,), 1))
        parameters = drawn(torch.bfloat16, bench.device, *sizes)

        def run(x, how, fused, parameters=parameters):
            with backend(how), patch.object(kernels, "widest", lambda *_: fused):
                return mlp.mlp_residual(x, x, *parameters)

        ways = {"cublas + GELU": ("reference", kernels.FUSED)}
        if bench.real:
            ways |= {"ours fused": ("triton", kernels.FUSED), "ours two products": ("triton", 0)}
            if channels > kernels.FUSED:
                del ways["ours fused"]
        cases = {}
        for name, (how, fused) in ways.items():
            for direction in ("forward", "forward and backward"):
                call = lambda x, how=how, fused=fused: run(x, how, fused)  # noqa: E731
                cases[f"{name}, {direction}"] = (call, direction != "forward", 0)
        found = bench.time_in_turn(cases, xs, grads, tuple(parameters))
        flops = 16 * math.prod(shape) * c
        for name, seconds in found.items():
            row = {"shape": shape, "what": name}
            if isinstance(seconds, str):
                bench.add(row | {"error": seconds})
                continue
            work = flops * (3 if name.endswith("backward") else 1)
            bench.add(row | microseconds(seconds) | {"tflops": round(work / seconds["p50"] / 1e12, 1)})


def measure_patchify(bench: Bench) -> None:
    """The stem and the downsampling layers of a Tiny: cuDNN's convolution against a product over gathered patches, bf16."""
    image = 224 if bench.real else 16
    stem = ((image, 3), bench.stages[0][1], 4)
    for (side, before), after, kernel in (stem, *((stage, 2 * stage[1], 2) for stage in bench.stages[:3])):
        conv = nn.Conv2d(before, after, kernel, stride=kernel, device=bench.device, dtype=torch.bfloat16)
        batch = bench.settings["batch"]
        shape = (batch, side, side, before)
        if before == 3:  # an image has no gradient, and lies in memory channel by channel
            xs = [x.detach().permute(0, 2, 3, 1) for x in bench.rotated((batch, before, side, side))]
        else:
            xs = bench.rotated(shape)

        def cudnn(x, conv=conv):
            with backend("reference"):
                return patchify.patches_module(conv, x)

        def ours(x, conv=conv):
            return patchify.patchify(x, conv.weight, conv.bias)

        grads = bench.rotated((batch, side // kernel, side // kernel, after))[:2]
        cases = {
            f"{who} {'stem' if before == 3 else 'downsampling'}, {direction}": (f, direction != "forward", 0)
            for direction in ("forward", "forward and backward")
            for who, f in (("cudnn", cudnn), ("ours", ours))
        }
        bench.add(*rows_of(bench.time_in_turn(cases, xs, grads, tuple(conv.parameters())), shape))


def rows_of(found: dict, shape: tuple[int, ...], moved: dict | None = None, roof: float = 1.0) -> list[dict]:
    """A row for each time or error, with the share of the copy bandwidth at which `moved` bytes went, and cudnn / ours."""
    rows: list[dict] = []
    for name, seconds in found.items():
        row = {"shape": shape, "what": name, "dtype": "bf16"}
        if isinstance(seconds, str):
            rows.append(row | {"error": seconds})
            continue
        row |= microseconds(seconds)
        if moved:
            speed = moved[name] / seconds["p50"]
            row |= {"gb_per_second": round(speed / 1e9, 1), "share_of_copy": round(speed / roof, 4)}
        rows.append(row)
    for name, seconds in found.items():
        ours = found.get(name.replace("cudnn", "ours"))
        if name.startswith("cudnn") and not isinstance(seconds, str) and not isinstance(ours, str | None):
            what = name.replace("cudnn", "cudnn / ours")
            rows.append({"shape": shape, "what": what, "ratio": round(seconds["p50"] / ours["p50"], 3)})
    return rows


def microseconds(seconds: dict[str, float]) -> dict:
    return {"microseconds": {p: round(1e6 * s, 2) for p, s in seconds.items()}}


STEPS = {
    "smoke": smoke,
    "depthwise": measure_depthwise,
    "mlp": measure_mlp,
    "patchify": measure_patchify,
}


def main(argv: Sequence[str] | None = None, description: str | None = __doc__, steps: dict = STEPS) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file STEP.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds since 1970")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.device, arguments.out / f"{arguments.step}.json", arguments.deadline)
    steps[arguments.step](bench)


if __name__ == "__main__":
    main(sys.argv[1:])
