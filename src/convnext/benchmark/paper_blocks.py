"""Table 9 and Figures 3 and 4 from live modules: the layers of a block, in order, in the paper's notation."""

from typing import Any

import timm
import torch
from torch import nn

from convnext import models
from convnext.models.block import ChannelNorm

RESNET, CONVNEXT, SWIN = "roadmap_resnet50_resnet", "convnext_tiny", "swin_tiny_patch4_window7_224"
NORMS = {nn.BatchNorm2d: "BN", nn.LayerNorm: "LN", ChannelNorm: "LN"}
ACTIVATIONS = {nn.ReLU: "ReLU", nn.GELU: "GELU"}
FIGURE3 = {"(a) ResNeXt-like": "width", "(b) inverted bottleneck": "inverting", "(c) depthwise moved up": "move-up"}


def _network(name: str) -> Any:
    with torch.device("meta"):
        if name == SWIN:
            return timm.create_model(name, pretrained=False)
        return models.build(name)


def layers(block: Any) -> list[str]:
    """Layers of a block on its main branch: `d7×7, 96`, `1×1, 384`, `LN`, `GELU`; and what follows the sum after `+`."""
    if hasattr(block, "attn"):
        return _of_swin(block)
    if hasattr(block, "dwconv"):
        before, after = (block.dwconv, block.norm, block.pwconv1), block.pwconv2
        return [*map(_layer, before), "GELU", _layer(after), "+"]
    after = [] if isinstance(block.activation, nn.Identity) else [_layer(block.activation)]
    return [_layer(part) for part in block.branch] + ["+", *after]


def _layer(module: nn.Module) -> str:
    for kinds in (NORMS, ACTIVATIONS):
        if type(module) in kinds:
            return kinds[type(module)]
    if isinstance(module, nn.Linear):
        return f"1×1, {module.out_features}"
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        return f"{'d' * depthwise}{module.kernel_size[0]}×{module.kernel_size[1]}, {module.out_channels}"
    return type(module).__name__.upper() if "gelu" in type(module).__name__.lower() else type(module).__name__


def _of_swin(block: Any) -> list[str]:
    attention, mlp = block.attn, block.mlp
    width = attention.proj.in_features
    window = attention.window_size[0]
    return [
        _layer(block.norm1),
        f"1×1, {width}×{attention.qkv.out_features // width}",
        f"MSA, w{window}×{window}, H={attention.num_heads}, rel. pos.",
        _layer(attention.proj),
        "+",
        _layer(block.norm2),
        _layer(mlp.fc1),
        _layer(mlp.act),
        _layer(mlp.fc2),
        "+",
    ]


def bracketed(stage: Any) -> str:
    """A stage as Table 9 writes it: the layers with weights of its last block between brackets, and how many blocks."""
    blocks = list(stage)
    kept = [layer for layer in layers(blocks[-1]) if "×" in layer or layer.startswith("MSA")]
    return f"[{'; '.join(kept)}] × {len(blocks)}"


def _stem(conv: nn.Conv2d, pool: nn.MaxPool2d | None) -> str:
    text = f"{_layer(conv)}, stride {conv.stride[0]}"
    return f"{text}; {pool.kernel_size}×{pool.kernel_size} max pool, stride {pool.stride}" if pool else text


def stages() -> list[dict[str, str]]:
    """The rows of Table 9 from ResNet-50, ConvNeXt-T and Swin-T: columns `resnet`, `convnext` and `swin`."""
    resnet, convnext, swin = (_network(name) for name in (RESNET, CONVNEXT, SWIN))
    pool = next(module for module in resnet.stem if isinstance(module, nn.MaxPool2d))
    rows = [
        {
            "resnet": _stem(resnet.stem[0], pool),
            "convnext": _stem(convnext.downsample_layers[0][0], None),
            "swin": _stem(swin.patch_embed.proj, None),
        }
    ]
    for i in range(4):
        rows.append(
            {
                "resnet": bracketed(resnet.stages[i]),
                "convnext": bracketed(convnext.stages[i]),
                "swin": bracketed(swin.layers[i].blocks),
            }
        )
    return rows


def blocks() -> dict[str, dict[str, list[str]]]:
    """{"3": {title: layers}, "4": ..}: the blocks of Figures 3 and 4, of the first stage."""
    third = {title: layers(_network(f"roadmap_resnet50_{step}").stages[0][-1]) for title, step in FIGURE3.items()}
    fourth = {
        "Swin Transformer block": layers(_network(SWIN).layers[0].blocks[0]),
        "ResNet block": layers(_network(RESNET).stages[0][-1]),
        "ConvNeXt block": layers(_network(CONVNEXT).stages[0][-1]),
    }
    return {"3": third, "4": fourth}
