"""timm's names (`timm.create_model("convnext_tiny")`, also its sizes whose MLP is made of 1x1 convolutions)."""

from collections.abc import Iterable

from convnext.models import identify
from convnext.weights.names import NameTable, Tensors

BLOCK = {"gamma": "gamma", "dwconv": "conv_dw", "norm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
MLP = ("mlp.fc1.weight", "mlp.fc2.weight")
CONV_MLP = ("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano")
TABLE = NameTable(
    "timm",
    [
        ("downsample_layers.0", "stem"),
        *((f"downsample_layers.{i}", f"stages.{i}.downsample") for i in (1, 2, 3)),
        *(
            (f"stages.{i}.#.{ours}", f"stages.{i}.blocks.#.{theirs}")
            for i in range(4)
            for ours, theirs in BLOCK.items()
        ),
        ("norm", "head.norm"),
        ("head", "head.fc"),
    ],
)


def matches(keys: Iterable[str]) -> bool:
    return "stages.0.blocks.0.conv_dw.weight" in keys


def to_ours(tensors: Tensors) -> Tensors:
    """1x1 convolution weights (O, I, 1, 1) become linear ones (O, I)."""
    return TABLE.to_ours({name: t.flatten(1) if name.endswith(MLP) else t for name, t in tensors.items()})


def from_ours(tensors: Tensors) -> Tensors:
    """In the sizes that timm builds with 1x1 convolutions, linear weights (O, I) become (O, I, 1, 1)."""
    conv = (identify(tensors) or {}).get("name") in CONV_MLP
    renamed = TABLE.from_ours(tensors)
    return {name: t[..., None, None] if conv and name.endswith(MLP) else t for name, t in renamed.items()}
