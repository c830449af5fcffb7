"""Layers of a deployed model on a CPU: weights in the order in which oneDNN reads them, for inference only.

Legend: K N features in and out, B batch, C D channels in and out, H W height and width.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from convnext.models.block import Block
from convnext.models.fold import ours, unpadded
from convnext.ops import depthwise, mlp, onednn
from convnext.ops.rule import geometry, intact, unwatched

FEWEST_CHANNELS = 8  # of the input of a convolution of patches that gains by being a product
CONTAINERS = nn.Sequential, nn.ModuleList


class Packed(nn.Module):
    """Packed weights, and biases. A copy and a file have the weights in PyTorch's order, and pack them again.

    So has a call that oneDNN's operators cannot serve (`ONEDNN.takes`): an empty batch, a function transform, a dispatch
    mode, a gradient with respect to the input.
    """

    def __init__(self, *weights: tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]):
        """Each weight with the function of `ops.onednn` that packs it, and its bias."""
        super().__init__()
        self.how = tuple(pack for pack, _, _ in weights)
        self.weights = tuple(weight for _, weight, _ in weights)
        self.biases = tuple(bias for _, _, bias in weights)
        self.pack()

    def pack(self) -> None:
        """Pack the weights, where oneDNN's operators can be used."""
        if onednn.usable(self.weights[0].dtype):
            self.weights = tuple(pack(weight) for pack, weight in zip(self.how, self.weights, strict=True))

    def plain(self) -> tuple[Tensor, ...]:
        """The weights in PyTorch's order."""
        return tuple(weight.to_dense() if weight.is_mkldnn else weight for weight in self.weights)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"weights": self.plain()}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.pack()


class PackedLinear(Packed):
    """A linear layer with weight (N,K)."""

    def __init__(self, layer: nn.Linear):
        super().__init__((onednn.pack_linear, layer.weight, layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if not onednn.ONEDNN.takes(x):
            return F.linear(x, *self.plain(), *self.biases)
        return onednn.linear(x.reshape(-1, x.shape[-1]), *self.weights, *self.biases).view(*x.shape[:-1], -1)


class PackedPatches(Packed):
    """A convolution whose stride is its kernel's side, without padding: one product over the patches."""

    def __init__(self, conv: nn.Conv2d):
        self.side, self.channels = conv.kernel_size[0], conv.in_channels
        super().__init__((onednn.pack_linear, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias))  # (D, K K C)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) channels last -> (B,D,H//K,W//K) channels last."""
        k, c = self.side, self.channels
        if not onednn.ONEDNN.takes(x):
            (weight,) = self.plain()
            return F.conv2d(x, weight.view(-1, k, k, c).permute(0, 3, 1, 2), *self.biases, stride=k)
        b, h, w = x.shape[0], x.shape[2] // k, x.shape[3] // k
        rows = x[:, :, : h * k, : w * k].permute(0, 2, 3, 1).reshape(b, h, k, w, k * c).transpose(2, 3)
        y = onednn.linear(rows.reshape(b * h * w, k * k * c), *self.weights, *self.biases)
        return y.view(b, h, w, -1).permute(0, 3, 1, 2)


class PackedBlock(Packed):
    """A stock block whose LayerNorm has no affine part and which has no LayerScale, see `models.fold`."""

    def __init__(self, block: Block, eps: float):
        self.eps = eps
        super().__init__(
            (onednn.pack_depthwise, block.dwconv.weight, block.dwconv.bias),
            (onednn.pack_linear, block.pwconv1.weight, block.pwconv1.bias),
            (onednn.pack_linear, block.pwconv2.weight, block.pwconv2.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,H,W,C) both ways."""
        taken = onednn.ONEDNN.takes(x)
        kernel, w1, w2 = self.weights if taken else self.plain()
        bias, b1, b2 = self.biases
        assert bias is not None and b1 is not None and b2 is not None  # noqa: PT018  as every stock block has them
        y = (onednn.depthwise if taken else depthwise.reference)(x, kernel, bias)
        y = F.layer_norm(y, x.shape[-1:], eps=self.eps)
        return onednn.mlp_residual(x, y, w1, b1, w2, b2) if taken else mlp.reference(x, y, w1, b1, w2, b2, None, None)


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
        return PackedBlock(module, norm.eps) if (norm := folded(module)) else None
    if intact(module, nn.Linear):
        return PackedLinear(module)
    if intact(module, nn.Conv2d) and unpadded(module) and module.in_channels >= FEWEST_CHANNELS:
        side = (module.kernel_size[0],) * 2
        return PackedPatches(module) if geometry(module) == (side, side, (0, 0), (1, 1), "zeros") else None
    return None


def folded(block: Block) -> nn.LayerNorm | None:
    """The LayerNorm of a block that is as it was built, but for `models.fold`; None of any other."""
    norm, whole = block.norm, ours(block) and unwatched(block) and block.stock() and block.gamma is None
    return norm if whole and intact(norm, nn.LayerNorm) and norm.weight is None else None
