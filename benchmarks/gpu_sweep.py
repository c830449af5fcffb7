"""The MLP's tiles and products on a GPU, a block's training step, and where a step's time goes: steps of `gpu_suite.py`.

    python benchmarks/gpu_sweep.py sweep|blocks|profile --out DIR [--device cuda]

sweep times every tile and every way to make a product and writes the best to tiles.json, which belongs into
`src/convnext/ops/_triton/`: no user's run tunes anything. blocks times the block in training as one operation, as two and as
PyTorch's own. profile writes the 25 longest kernels of a training step and of a deployed forward pass.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from gpu_kernels import Bench, main, microseconds, rows_of
from torch.profiler import ProfilerActivity, profile

import convnext
from convnext.benchmark.throughput import reason
from convnext.models.block import Block, Blocks
from convnext.ops.backend import backend

TILES = tuple(product((64, 128, 256), (32, 64), (4, 8), (2, 3)))  # BM, BH, warps, stages


def sweep(bench: Bench) -> None:
    """Time every tile of the fused MLP that fits, and every way to make the two products; the best go to tiles.json.

    A width is fused up to where the best tile is faster than the best of both products.
    """
    from convnext.ops._triton import mlp, products
    from convnext.ops._triton.device import device_of

    limit = device_of(bench.device).shared
    tasks: list[tuple] = [
        (c, form, tile)
        for _, c in bench.stages
        if c <= mlp.FUSED
        for form in ("inference", "training")
        for tile in (mlp.Tile(*t) for t in TILES if 4 * c % t[1] == 0)
        if tile.shared(sum(mlp.split(c)), form) <= limit
    ]
    tasks += [(c, form, way) for _, c in bench.stages for form in PRODUCTS for way in products.WAYS]
    if bench.real:  # compiled in parallel, into Triton's cache; then timed one after the other
        with ProcessPoolExecutor(min(12, os.cpu_count() or 1), get_context("spawn")) as pool:
            list(pool.map(compile_task, tasks))
    best: dict[tuple, tuple] = {}
    for c, form, how in tasks if bench.real else (tasks[0], tasks[-1]):
        if not bench.left():
            break
        row = {"what": "product" if form in PRODUCTS else "tile", "channels": c, "form": form, "tile": how}
        try:
            seconds = bench.time_in_turn({"": (launcher(c, form, how, bench), False, 0)}, [torch.empty(0)] * 2, [], ())
            seconds = seconds[""]
            if isinstance(seconds, str):
                raise RuntimeError(seconds)
        except Exception as failure:
            bench.add(row | {"error": reason(failure)})
            continue
        bench.add(row | microseconds(seconds))
        best[c, form] = min(best.get((c, form), (math.inf,)), (seconds["p50"], how))
    (bench.path.parent / "tiles.json").write_text(json.dumps({bench.result["device"]: fastest(best)}) + "\n")


PRODUCTS = {"expand": False, "expand_keep": True, "project": False, "project_wide": True}
"""{form of a product: whether it is one of training}"""


def fastest(best: dict[tuple, tuple]) -> dict[str, dict]:
    """From {(channels, form): (seconds, tile or way)} what `tiles.json` has of a device."""
    found: dict[str, dict] = {}
    for (c, form), (_, how) in sorted(best.items(), key=lambda item: item[0]):
        found.setdefault(form, {})[str(c)] = how
    for form, parts in (("inference", ("expand", "project")), ("training", ("expand_keep", "project_wide"))):
        apart = {
            c: sum(best[c, part][0] for part in parts)
            for c, each in best
            if each == form and {(c, p) for p in parts} <= best.keys()
        }
        if lost := [c for c, seconds in apart.items() if best[c, form][0] > seconds]:
            found.setdefault("fused", {})[form] = max((c for c in apart if c < min(lost)), default=0)
    return found


def launcher(c: int, form: str, how: Any, bench: Bench, rows: int | None = None) -> Callable:
    """A call of the fused kernel in one form with one tile, or of a product in one way."""
    from convnext.ops._triton import mlp, products

    m = rows or bench.settings["batch"] * next(side for side, width in bench.stages if width == c) ** 2
    trains = PRODUCTS.get(
        form, form != "inference"
    )  # then with the twin of the output, as between the blocks of a stage
    y = torch.randn(1, 1, m, c, device=bench.device, dtype=torch.bfloat16)
    x = torch.randn_like(y, dtype=torch.float32 if trains else torch.bfloat16)
    b1, b2, gamma = (torch.randn(n, device=bench.device) for n in (4 * c, c, c))
    w1, w2 = (torch.randn(s, device=bench.device, dtype=torch.bfloat16) * c**-0.5 for s in ((4 * c, c), (c, 4 * c)))
    if form in PRODUCTS:
        hidden = y.new_empty(m, 4 * c).normal_()
        out, twin = torch.empty_like(x), torch.empty_like(y) if trains else None

        def run() -> None:
            with patch.object(products, "way", lambda *_: how):
                if form.startswith("expand"):
                    products.expanded(y, w1, b1, trains)
                else:
                    products.projected(hidden, w2, x, b2, gamma, None, out, twin)
    else:
        options = dict(zip(("C", "C0", "C1"), (c, *mlp.split(c)), strict=True)) | how._asdict()

        def run() -> None:
            with (
                patch.object(mlp, "fused_tiles", lambda *_: options | {"enable_fp_fusion": True}),
                patch.object(mlp, "widest", lambda *_: mlp.FUSED),
            ):
                mlp.forward(x, y, w1, b1, w2, b2, gamma, None, trains, pair=trains)

    return lambda _=None: run() if bench.real else None


def compile_task(task: tuple) -> None:
    """In a process of its own: one launch on few rows puts the compiled kernel into the cache."""
    try:
        launcher(*task, Bench("cuda", Path(os.devnull), math.inf), rows=256)()
    except Exception as failure:  # the same failure is a row later
        print(task, reason(failure), flush=True)


def measure_blocks(bench: Bench) -> None:
    """A training step of three blocks under autocast: as one operation each, as two, and in PyTorch's own operations."""
    from convnext.ops import whole_block

    never = replace(whole_block.WHOLE, pays=lambda x: False)
    ways = {"parts": ("reference", never)}
    if bench.real:
        ways |= {"one operation": ("auto", whole_block.WHOLE), "two operations": ("auto", never)}
    for side, channels in bench.stages:
        shape = (bench.settings["batch"], side, side, channels)
        blocks = Blocks(*(Block(channels) for _ in range(3))).to(bench.device)
        xs = [x.detach().float().requires_grad_() for x in bench.rotated(shape)[:2]]
        grads = [x.detach() for x in xs]

        def run(x, how, form, blocks=blocks):
            with backend(how), patch.object(whole_block, "WHOLE", form), torch.autocast(x.device.type, torch.bfloat16):
                return blocks(x)

        cases = {name: (partial(run, how=how, form=form), True, 0) for name, (how, form) in ways.items()}
        found = bench.time_in_turn(cases, xs, grads, tuple(blocks.parameters()))
        bench.add(*rows_of({f"{name}, forward and backward": t for name, t in found.items()}, shape))


def profiled(bench: Bench) -> None:
    """The longest operations on the device of three training steps and of three forward passes of the deployed model."""
    name, batch, image = ("convnext_tiny", 256, 224) if bench.real else ("convnext_atto", 2, 32)
    model = convnext.create_model(name, drop_path_rate=0.1).to(bench.device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, image, image, device=bench.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def train():
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    report(bench, "training step", train)
    deployed = model.eval().deploy(precision="bf16")

    def infer():
        with torch.inference_mode():
            deployed(images)

    report(bench, "deployed forward pass", infer)


def report(bench: Bench, what: str, call: Callable[[], None], calls: int = 3) -> None:
    for _ in range(calls):
        call()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.real else [])]
    with profile(activities=kinds) as found:
        for _ in range(calls):
            call()
        if bench.real:
            torch.cuda.synchronize()
    key = "self_device_time_total" if bench.real else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    for event in events[:25]:
        spent = getattr(event, key)
        row = {"what": what, "operation": event.key[:120], "calls": event.count // calls}
        bench.add(row | {"microseconds": round(spent / calls, 1), "share": round(spent / max(total, 1), 4)})


if __name__ == "__main__":
    main(sys.argv[1:], __doc__, {"sweep": sweep, "blocks": measure_blocks, "profile": profiled})
