"""`model.deploy()`: a copy for inference, with constants folded away and the fastest path of the device it is on.

Nothing between LayerNorm and the layer after it, or between a block's last layer and its sum, depends on the image: so
LayerNorm's weight and bias go into that layer, and LayerScale's gamma into the last one. On a CPU the weights are also
packed for oneDNN (`ops.onednn`); on a GPU the kernels of `ops` run in bf16 without affine parts. All of that is done to
layers that are as they were built (`ops.rule`); what somebody changed or watches is copied as it is, and runs its parts.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError, nearest
from convnext.models.block import Block
from convnext.models.packed import PackedBlock, PackedLinear, PackedPatches
from convnext.models.recompute import is_recomputed
from convnext.ops import backend, onednn
from convnext.ops.mlp import fold_affine, fold_gamma
from convnext.ops.rule import PLAIN, differentiated, geometry, intact, unwatched

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
FEWEST_CHANNELS = 8  # of the input of a convolution of patches that gains by being a product
CONTAINERS = nn.Sequential, nn.ModuleList


class Deployable(nn.Module):
    """A network that can be deployed."""

    def folds(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """(module, name of its LayerNorm, the layer that alone reads this LayerNorm's output), outside of the blocks."""
        return []

    def deploy(self, precision: str = "auto") -> "Deployed":
        """An inference copy, the fastest there is on this device: see `models.deploy.deploy`."""
        return deploy(self, precision)


def deploy(model: nn.Module, precision: str = "auto") -> "Deployed":
    """An inference copy of a ConvNeXt or isotropic ConvNeXt: same inputs and outputs, same device, no gradients.

    Args:
        precision: fp32, bf16 (weights and activations), or auto: bf16 where the processor multiplies it, else fp32.

    Raises:
        ConvNextError: an unknown precision, or a model that cannot be copied or whose weights are quantized.
    """
    chosen, why = choose(precision, next(model.parameters()).device)
    for name, module in model.named_modules():
        parameters = module.parameters(recurse=False)
        if type(module).__module__.startswith(("torch.ao.", "torchao.")) or any(
            type(p) not in PLAIN for p in parameters
        ):
            raise ConvNextError(
                f"{name or 'The model'} is a {type(module).__name__} with quantized or distributed weights, which cannot be "
                "deployed. Deploy the model as it was before, or use this one as it is."
            )
    copy = fold(model).to(PRECISIONS[chosen])
    on_cpu = next(copy.parameters()).device.type == "cpu"
    if on_cpu and backend.chosen() == "auto" and onednn.usable(PRECISIONS[chosen]):
        pack(copy)
    return Deployed(copy, chosen, why)


def choose(precision: str, device: torch.device) -> tuple[str, str]:
    """(precision, the reason in words)."""
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
        elif isinstance(module, Deployable):
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


def pack(model: nn.Module) -> None:
    """Give the layers of a folded model on a CPU their weights in oneDNN's order, in place; stems keep theirs."""
    known = ours(model) or type(model) in CONTAINERS
    for name, child in list(model.named_children()):
        packed = packed_form(child) if known else None
        if packed is None:
            pack(child)
        else:
            setattr(model, name, packed)


def packed_form(module: nn.Module) -> nn.Module | None:
    """The module with packed weights; None if there is no such form of it."""
    if isinstance(module, Block):
        norm, whole = module.norm, ours(module) and unwatched(module) and module.stock() and module.gamma is None
        return PackedBlock(module, norm.eps) if whole and intact(norm, nn.LayerNorm) and norm.weight is None else None
    if intact(module, nn.Linear):
        return PackedLinear(module)
    if intact(module, nn.Conv2d) and unpadded(module) and module.in_channels >= FEWEST_CHANNELS:
        side = (module.kernel_size[0],) * 2
        return PackedPatches(module) if geometry(module) == (side, side, (0, 0), (1, 1), "zeros") else None
    return None


class Deployed(nn.Module):
    """The inference copy that `deploy` returns; attributes that it does not have itself are the copy's.

    It stays on its device and in its precision, and holds no state to save: save the model that it was made from. It can
    be copied and pickled, to be used on this kind of machine.

    Attributes:
        precision: fp32 or bf16, in which it computes.
        why: the reason for that precision.
    """

    def __init__(self, model: nn.Module, precision: str, why: str):
        super().__init__()
        self.model, self.precision, self.why = model, precision, why
        self.eval()

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """x (B, in_chans, H, W) float -> logits of x's type, or the feature maps of a backbone, as the model's."""
        # no decorator: it would import the compiler, seconds of every prediction
        run: Any = torch.compiler.disable(self._run) if torch.compiler.is_compiling() else self._run
        return run(self.model, x)

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Same as the model's `feature_maps`, without gradients."""
        return self._run(self.model.feature_maps, x)

    def _run(self, function, x: Tensor):
        if torch.jit.is_tracing() or not isinstance(x, Tensor) or torch.compiler.is_exporting() or is_fake(x):
            raise ConvNextError(
                "A deployed model cannot be traced or exported: its weights are in an order that only this machine's "
                "operators read. Trace the model that it was made from, or use `convnext export`."
            )
        if differentiated():
            raise ConvNextError("A deployed model has no gradients; differentiate the model that it was made from.")
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            out = function(x.to(PRECISIONS[self.precision]) if x.is_floating_point() else x)
        return {k: v.to(x.dtype) for k, v in out.items()} if isinstance(out, dict) else out.to(x.dtype)

    def train(self, mode: bool = True) -> "Deployed":
        if mode:
            raise ConvNextError("A deployed model cannot be trained; train the model that it was made from.")
        return super().train(mode)

    def deploy(self, precision: str = "auto") -> "Deployed":
        raise ConvNextError("This model is deployed already; deploy the model that it was made from.")

    def state_dict(self, *args, **kwargs):
        raise ConvNextError("A deployed model has nothing to save; save the model that it was made from.")

    def _apply(self, fn, recurse: bool = True) -> "Deployed":
        """Refuse `to`, `half`, `cuda`, .. unless they change nothing."""
        there = next((p for p in self.parameters()), torch.empty(0, dtype=PRECISIONS[self.precision])).detach()[:0]
        found = fn(there)
        if (found.dtype, found.device) != (there.dtype, there.device):
            raise ConvNextError(
                f"A deployed model stays in {self.precision} on {there.device}; move or convert the model that it was made "
                "from, and deploy that."
            )
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


def is_fake(x: Tensor) -> bool:
    """True in FakeTensorMode, and for its tensors."""
    if type(x) in PLAIN and not torch._C._len_torch_dispatch_stack():
        return False  # at once: the search takes as long as the checks of five blocks
    from torch._guards import detect_fake_mode

    return detect_fake_mode([x]) is not None
