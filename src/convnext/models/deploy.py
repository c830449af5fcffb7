"""`model.deploy()`: a copy for inference, with constants folded away and the fastest path of the device it is on.

Nothing between LayerNorm and the layer after it, or between a block's last layer and its sum, depends on the image: so
LayerNorm's weight and bias go into that layer, and LayerScale's gamma into the last one. On a CPU the weights are also
packed for oneDNN (`ops.onednn`); on a GPU the kernels of `ops` run in bf16 without affine parts.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError, nearest
from convnext.models.convnext import Block
from convnext.models.packed import PackedBlock, PackedLinear, PackedPatches
from convnext.ops import backend, onednn
from convnext.ops.mlp import fold_affine, fold_gamma

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
FEWEST_CHANNELS = 8  # of the input of a convolution of patches that gains by being a product


def deploy(model: nn.Module, precision: str = "auto") -> "Deployed":
    """An inference copy of a ConvNeXt or isotropic ConvNeXt: same inputs and outputs, same device, no gradients.

    Args:
        precision: fp32, bf16 (weights and activations), or auto: bf16 where the processor multiplies it, else fp32.

    Raises:
        ConvNextError: an unknown precision.
    """
    chosen, why = choose(precision, next(model.parameters()).device)
    copy = fold(model).to(PRECISIONS[chosen])
    on_cpu = next(copy.parameters()).device.type == "cpu"
    if on_cpu and backend.chosen() == "auto" and onednn.usable(PRECISIONS[chosen]):
        pack(copy)
    return Deployed(copy, chosen, why)


def choose(precision: str, device: torch.device) -> tuple[str, str]:
    """(precision, why), the second for people."""
    if precision in PRECISIONS:
        return precision, "asked for"
    if precision != "auto":
        names = [*PRECISIONS, "auto"]
        raise ConvNextError(f"Precision {precision!r} is unknown; use {', '.join(names)}.{nearest(precision, names)}")
    if device.type == "cuda":
        fast, what = torch.cuda.get_device_capability(device) >= (8, 0), "this GPU"
    else:
        fast, what = device.type == "cpu" and onednn.bf16(), "this processor"
    return ("bf16", f"{what} multiplies bf16") if fast else ("fp32", f"{what} has no arithmetic for bf16")


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose LayerNorms have no affine part and whose blocks have no LayerScale, where the layer
    that follows can take them over. It is a plain module that computes the same in fewer operations, for export too."""
    copy = deepcopy(model).eval().requires_grad_(False)
    for module in list(copy.modules()):
        if isinstance(module, Block):
            fold_norm(module, "norm", module.pwconv1)
            if module.gamma is not None:
                last = module.pwconv2
                last.weight.data, last.bias.data = fold_gamma(module.gamma, last.weight, last.bias)
                module.gamma = None
    for downsample in list(getattr(copy, "downsample_layers", ()))[1:]:  # the first has its norm behind the convolution
        fold_norm(downsample, "0", downsample[1])
    if getattr(copy, "num_classes", None) is not None:
        fold_norm(copy, "norm", copy.head)
    return copy


def fold_norm(parent: nn.Module, name: str, layer: nn.Linear | nn.Conv2d) -> None:
    """Move the affine part of LayerNorm `parent.name` into the layer that it feeds, which has no padding."""
    norm = getattr(parent, name)
    layer.weight.data, layer.bias.data = fold_affine(norm.weight, norm.bias, layer.weight, layer.bias)
    setattr(parent, name, nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False))


def pack(model: nn.Module) -> None:
    """Give the layers of a folded model on a CPU their weights in oneDNN's order, in place; stems keep theirs."""
    for name, child in list(model.named_children()):
        if isinstance(child, Block):
            setattr(model, name, PackedBlock(child))
        elif isinstance(child, nn.Linear):
            setattr(model, name, PackedLinear(child))
        elif (
            isinstance(child, nn.Conv2d) and child.in_channels >= FEWEST_CHANNELS and child.kernel_size == child.stride
        ):
            setattr(model, name, PackedPatches(child))
        else:
            pack(child)


class Deployed(nn.Module):
    """What `deploy` returns. `precision` is what it computes in, `why` says why; everything else is the model's.

    It stays on its device and in its precision, and holds no state to save: save the model that it was made from.
    """

    def __init__(self, model: nn.Module, precision: str, why: str):
        super().__init__()
        self.model, self.precision, self.why = model, precision, why
        self.eval()

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """As the model's: x (B, in_chans, H, W) float -> logits of x's type, or the feature maps of a backbone."""
        # no decorator: it would import the compiler, seconds of every prediction
        run = torch.compiler.disable(self._run) if torch.compiler.is_compiling() else self._run
        return run(self.model, x)

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """As the model's."""
        return self._run(self.model.feature_maps, x)

    def _run(self, function, x: Tensor):
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            out = function(x.to(PRECISIONS[self.precision]))
        return {k: v.to(x.dtype) for k, v in out.items()} if isinstance(out, dict) else out.to(x.dtype)

    def train(self, mode: bool = True) -> "Deployed":
        if mode:
            raise ConvNextError("A deployed model cannot be trained; train the model that it was made from.")
        return super().train(mode)

    def deploy(self, precision: str = "auto") -> "Deployed":
        raise ConvNextError("This model is deployed already; deploy the model that it was made from.")

    def state_dict(self, *args, **kwargs):
        raise ConvNextError("A deployed model has nothing to save; save the model that it was made from.")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)
