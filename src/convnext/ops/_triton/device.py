"""Facts about a device on which the choice of a kernel's form depends, and what was measured on it."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from convnext.ops._triton import Variant


class Device(NamedTuple):
    """Bytes of shared memory that a program may have, its name, and its multiprocessors."""

    shared: int
    name: str
    multiprocessors: int = 132


H100 = Device(227 << 10, "")
LITTLE = Device(99 << 10, "")  # consumer devices (compute capability 12.0)


@cache
def device_of(device: torch.device) -> Device:
    """In the interpreter, which has no limits, as an H100."""
    if device.type != "cuda":
        return H100
    properties = torch.cuda.get_device_properties(device)
    return Device(properties.shared_memory_per_block_optin, properties.name, properties.multi_processor_count)


@cache
def measured() -> dict[str, dict[str, dict[str, Any]]]:
    """{name of a device: {form: {channels: what was fastest}}}, as `benchmarks/gpu_sweep.py` writes it."""
    return json.loads(Path(__file__).with_name("tiles.json").read_text())


def variant(
    name: str, kernel, launch: dict, types: dict[str, str], absent: tuple[str, ...] = (), **constants
) -> Variant:
    """A kernel's form: arguments of the given types but those that are absent, M and P, the launch options and constants."""
    signature = {k: v for k, v in types.items() if k not in absent}
    signature |= {k: "i32" for k in ("M", "P") if k in kernel.arg_names}
    tile = {k: v for k, v in launch.items() if k.isupper()}
    values = tile | constants | dict.fromkeys(absent)
    return Variant(f"mlp_{name}", kernel, signature, values, launch["num_warps"], launch["num_stages"])
