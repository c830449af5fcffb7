"""The precision of a computation: the meaning of `auto` on a device, and the autocast context."""

from contextlib import nullcontext

import torch

INT8 = (
    "int8 is made of a checkpoint once, as it needs images to measure ranges on: `convnext export MODEL --format convnext-int8 "
    "--calibration FOLDER` writes MODEL.int8.safetensors, which predict, evaluate and convnext.load take without --precision "
    "(a run's own training images are taken where there are; in Python also model.deploy('int8', calibration=images))."
)


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def described(precision: str, device: torch.device) -> str:
    """A resolved precision in words: fp32 on a GPU that computes convolutions or products in TF32 says so."""
    if precision != "fp32" or device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return precision
    parts = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "products": torch.get_float32_matmul_precision() != "highest",
    }
    return (
        f"fp32 (TF32 in {' and '.join(part for part, on in parts.items() if on)})" if any(parts.values()) else precision
    )


def autocast(precision: str, device: torch.device):
    """The context in which the model runs in `fp32`, `bf16` or `fp16`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
