"""Multiply-accumulates, activations and parameters, counted on the live model without computing anything.

The paper's "FLOPs" (Tables 1, 2, 9, 10, 11) are multiply-accumulates of convolutions and linear layers: no norms, biases,
activations, pooling or residuals.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnext.models import build
from convnext.task.spec import TaskSpec


@dataclass(frozen=True)
class Count:
    """params; macs and activations (elements put out by convolutions and linear layers) for one image; weight bytes."""

    params: int
    macs: int
    activations: int

    @property
    def weight_bytes(self) -> int:
        """In fp32."""
        return 4 * self.params


def count(
    model: nn.Module, image: tuple[int, int, int] = (3, 224, 224), forward: Callable[..., object] | None = None
) -> Count:
    """Count one forward pass of a model on the meta device, for one image (C, H, W); `forward(model, x)` in its place."""
    activations = 0

    def add(module, inputs, output):
        nonlocal activations
        activations += output.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and type(m).forward is nn.BatchNorm2d.forward]
    for norm in norms:  # nothing of it counts, and on the meta device it takes half of the time
        norm.forward = nn.Identity().forward
    was_training = model.training
    with FlopCounterMode(display=False) as counter:
        (forward or nn.Module.__call__)(model.eval(), torch.empty(1, *image, device="meta"))
    model.train(was_training)
    for norm in norms:
        del norm.forward
    for hook in hooks:
        hook.remove()
    params = sum(p.numel() for p in model.parameters())
    return Count(params, counter.get_total_flops() // 2, activations)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Make timm's attention two matrix products, which are counted whatever kernel would run them."""
    from timm.layers import set_fused_attn, use_fused_attn

    fused = use_fused_attn()
    set_fused_attn(False)
    try:
        yield
    finally:
        set_fused_attn(bool(fused))


def count_named(name: str, size: int = 224, **options) -> Count:
    """Count a model by name, without allocating its weights."""
    with torch.device("meta"):
        model = build(name, **options)
    return count(model, (options.get("in_chans", 3), size, size))


def count_task(spec: TaskSpec, name: str, height: int, width: int) -> Count:
    """Count a model of any task by name, without allocating its weights."""
    with torch.device("meta"):
        return count(spec.build(name), (3, height, width), spec.macs_forward)


def count_macs(spec: TaskSpec, module: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of a model for one image of this size."""
    channels = getattr(module, "in_chans", 3)
    return count(deepcopy(module).to("meta"), (channels, height, width), spec.macs_forward).macs
