"""The reference implementation's checkpoints (facebookresearch/ConvNeXt): their parameter names are ours."""

from collections.abc import Iterable

from convnext.weights.names import Tensors

FIRST = ("stages.0.0.dwconv.weight", "blocks.0.dwconv.weight")  # four stages; isotropic


def matches(keys: Iterable[str]) -> bool:
    """True if these are the reference's names; inside a detector or segmenter they stand under `backbone.`."""
    return any(key.removeprefix("backbone.") in FIRST for key in keys)


def to_ours(tensors: Tensors) -> Tensors:
    return dict(tensors)


def from_ours(tensors: Tensors) -> Tensors:
    return dict(tensors)
