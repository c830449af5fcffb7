"""The first step of a deployment: a plain copy that computes the same in fewer operations, for exports too.

Nothing between LayerNorm and the layer after it, or between a block's last layer and its sum, depends on the image: so
LayerNorm's weight and bias go into that layer, and LayerScale's gamma into the last one. All of that is done to layers that
are as they were built (`ops.rule`); what somebody changed or watches is copied as it is.
"""

from copy import deepcopy

import torch
from torch import nn

from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.models.recompute import is_recomputed
from convnext.ops.mlp import fold_affine, fold_gamma
from convnext.ops.rule import intact


class Foldable(nn.Module):
    """A network that names its LayerNorms outside of blocks that can be folded."""

    def folds(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """(module, name of its LayerNorm, the layer that alone reads this LayerNorm's output), outside of the blocks."""
        return []


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose LayerNorms have no affine part and whose blocks have no LayerScale, where the layer
    that follows can take them over. It is a plain module that computes the same in fewer operations, for export too.

    Raises:
        ConvNextError: the model cannot be copied.
    """
    try:
        copy = deepcopy(model).eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:
        raise ConvNextError(
            f"The model cannot be copied: {' '.join(str(error).split())[:200]} Make pruned weights and weight norms permanent "
            "(torch.nn.utils.prune.remove, remove_weight_norm) and detach tensors with a gradient before you deploy it."
        ) from error
    for module in list(copy.modules()):
        if is_recomputed(module):
            del module.forward  # recomputing is for training
        if not ours(module):
            continue
        if isinstance(module, Block):
            fold_norm(module, "norm", module.pwconv1)
            last = module.pwconv2
            if module.gamma is not None and intact(last, nn.Linear) and last.bias is not None:
                last.weight.data, last.bias.data = fold_gamma(module.gamma, last.weight, last.bias)
                module.gamma = None
        elif isinstance(module, Foldable):
            for parent, name, layer in module.folds():
                fold_norm(parent, name, layer)
    return copy


def ours(module: nn.Module) -> bool:
    """True for a module of this package itself, no subclass, with its own `forward`."""
    return type(module).__module__.startswith("convnext.models.") and "forward" not in vars(module)


def fold_norm(parent: nn.Module, name: str, layer: nn.Module) -> None:
    """Move the affine part of LayerNorm `parent.name` into the layer that it feeds, if both are as they were built."""
    norm = getattr(parent, name)
    if not intact(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
        return
    if not (intact(layer, nn.Linear) or (intact(layer, nn.Conv2d) and unpadded(layer))) or layer.bias is None:
        return
    layer.weight.data, layer.bias.data = fold_affine(norm.weight, norm.bias, layer.weight, layer.bias)
    setattr(parent, name, nn.LayerNorm(list(norm.normalized_shape), norm.eps, elementwise_affine=False))


def unpadded(conv: nn.Conv2d) -> bool:
    """True if every output is a sum over whole patches and all channels."""
    return conv.padding == (0, 0) and conv.groups == 1
