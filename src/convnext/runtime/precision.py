"""The precision of a computation: the meaning of `auto` on a device, and the autocast context."""

from contextlib import nullcontext

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def autocast(precision: str, device: torch.device):
    """The context in which the model runs in `fp32`, `bf16` or `fp16`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
