"""AdamW and its parameter groups: no decay on norms, biases and LayerScale; learning rates that fall towards the input."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.recipes.schema import AdamW


def param_groups(model: nn.Module, weight_decay: float, layer_decay: float | None, rule: str = "layer") -> list[dict]:
    """Groups of trainable parameters that share a learning-rate scale and a weight decay.

    Each group has `params`, `names`, `lr_scale` = layer_decay^(largest id - id) by the ids that the model publishes
    (Section A.2; `model.layer_decay_ids(rule)`), and `weight_decay`, which is 0 for 1-D parameters and biases.

    Raises:
        ConvNextError: layer decay is asked for and the model publishes no ids.
    """
    ids: dict[str, int] = {}
    last = 0
    if layer_decay is not None:
        publish: Callable[[str], tuple[dict[str, int], int]] | None = getattr(model, "layer_decay_ids", None)
        if publish is None:
            raise ConvNextError(f"{type(model).__name__} has no layer groups; train it with --optim.layer-decay None.")
        ids, last = publish(rule)
    groups: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (last - ids[name]) if layer_decay is not None else 1.0
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


class SkippingAdamW(torch.optim.AdamW):
    """Fused AdamW whose step can be skipped by a number on the device, so that the host need not wait for it.

    PyTorch's methods are called without their wrappers for torch.compile: those import the compiler, which takes three
    quarters of the time of `import torch` before the first step of every run.
    """

    found_inf: Tensor  # PyTorch's name for it: the fused kernel leaves everything as it is where this is 1

    @torch.no_grad()
    def step_unless(self, skipped: Tensor) -> None:
        """One step, or none if `skipped` (0-d float, 0 or 1)."""
        self.found_inf = skipped
        unwrap(torch.optim.AdamW.step)(self)

    def zero_grad(self, set_to_none: bool = True) -> None:
        unwrap(torch.optim.AdamW.zero_grad)(self, set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        unwrap(torch.optim.AdamW.add_param_group)(self, param_group)


def make_optimizer(model: nn.Module, optim: AdamW, rule: str = "layer") -> SkippingAdamW:
    """The optimizer of a recipe's options for all trainable parameters of `model`; `rule` as in `param_groups`."""
    groups = param_groups(model, optim.weight_decay, optim.layer_decay, rule)
    return SkippingAdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its scale."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * group["lr_scale"])
        else:
            group["lr"] = lr * group["lr_scale"]


def lr_to_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep learning rates as fp32 numbers on the device, so that a recorded step reads them anew each time."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
        group["capturable"] = True


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dict, keyed `{kind}.{parameter name}`."""
    return {
        f"{kind}.{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for kind, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, on an optimizer of the same model that has not stepped yet."""
    by_name = {n: p for group in optimizer.param_groups for n, p in zip(group["names"], group["params"], strict=True)}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parameter = by_name[name]
        # as the optimizer makes it: moments like the parameter in layout, the step count on its device
        fresh = torch.empty_like(parameter) if value.shape == parameter.shape and kind != "step" else value
        optimizer.state[parameter][kind] = fresh.copy_(value) if fresh is not value else value.to(parameter.device)
