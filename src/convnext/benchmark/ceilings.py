"""The best that the device can do, measured: the bandwidth of a copy, and the rate of a large matrix product per type."""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from convnext.benchmark.prepare import DTYPES

COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
SIDES = {"cuda": (1024, 8192), "cpu": (256, 2048)}
ENOUGH = {"cuda": 1e-3, "cpu": 2e-2}
"""Seconds of one product from which a larger one is not tried: a CPU without the arithmetic of a type takes minutes else."""
REPEATS = 7


def copy_bandwidth(device: torch.device, size: int | None = None) -> float:
    """Bytes read plus bytes written per second while copying `size` bytes of random values within the memory of the device."""
    size = size or COPY_BYTES[device.type]
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / best(lambda: target.copy_(source), device)


def matmul_rate(precision: str, device: torch.device, sides: tuple[int, int] | None = None) -> float:
    """Floating-point operations per second of products of two random (side, side) matrices, at the best of growing sides.

    On a CPU the better of the matrix product and the same product as a 1x1 convolution, which goes to another library.
    """
    side, largest = sides or SIDES[device.type]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        rate = 0.0
        while side <= largest:
            a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
            seconds = best(partial(torch.mm, a, b), device)
            if device.type == "cpu":
                pixels = a.t().reshape(1, side, side, 1)  # channels-last
                kernel = b.t().reshape(side, side, 1, 1).contiguous()
                seconds = min(seconds, best(partial(F.conv2d, pixels, kernel), device))
            rate = max(rate, 2 * side**3 / seconds)
            side = 2 * side if seconds < ENOUGH[device.type] else largest + 1
        return rate
    finally:
        torch.set_float32_matmul_precision(before)


@torch.inference_mode()
def best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls, after one that is not counted: a ceiling is reached when nothing disturbs."""
    found = []
    for _ in range(REPEATS + 1):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1000)
        else:
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
    return min(found[1:])


def measure(precisions, device: torch.device, known: dict | None = None) -> dict:
    """{"copy_gb_per_second": .., "matmul_tflops": {precision: ..}}, adding to what is `known` what it lacks."""
    known = known or {}
    rates = dict(known.get("matmul_tflops", {}))
    for precision in precisions:
        if precision not in rates:
            rates[precision] = round(matmul_rate(precision, device) / 1e12, 4)
    copied = known.get("copy_gb_per_second") or round(copy_bandwidth(device) / 1e9, 2)
    return {"copy_gb_per_second": copied, "matmul_tflops": rates}
