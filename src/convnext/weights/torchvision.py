"""torchvision's names (`torchvision.models.convnext_tiny`)."""

from collections.abc import Iterable

from convnext.errors import ConvNextError
from convnext.weights.names import NameTable, Tensors

BLOCK = {
    "gamma": "layer_scale",
    "dwconv": "block.0",
    "norm": "block.2",
    "pwconv1": "block.3",
    "pwconv2": "block.5",
}
TABLE = NameTable(
    "torchvision",
    [
        *((f"downsample_layers.{i}", f"features.{2 * i}") for i in range(4)),
        *(
            (f"stages.{i}.#.{ours}", f"features.{2 * i + 1}.#.{theirs}")
            for i in range(4)
            for ours, theirs in BLOCK.items()
        ),
        ("norm", "classifier.0"),
        ("head", "classifier.2"),
    ],
)


def matches(keys: Iterable[str]) -> bool:
    return "features.1.0.layer_scale" in keys


def to_ours(tensors: Tensors) -> Tensors:
    """LayerScale (C, 1, 1) becomes (C,)."""
    return {
        name: tensor.flatten() if name.endswith(".gamma") else tensor for name, tensor in TABLE.to_ours(tensors).items()
    }


def from_ours(tensors: Tensors) -> Tensors:
    """LayerScale (C,) becomes (C, 1, 1).

    Raises:
        ConvNextError: the model has no LayerScale, or a tensor that torchvision has no place for.
    """
    renamed = TABLE.from_ours(tensors)
    if not matches(renamed):
        raise ConvNextError(
            "The torchvision format cannot hold a model without LayerScale: its blocks always have one. Save as "
            "'safetensors', 'official', 'timm' or 'transformers'."
        )
    return {name: t.reshape(-1, 1, 1) if name.endswith(".layer_scale") else t for name, t in renamed.items()}
