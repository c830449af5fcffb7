"""Tell which classifier a set of tensors (our names) belongs to, from their names and shapes."""

import re
from collections.abc import Mapping

from torch import Tensor

from convnext.models.outputs import CLASSIFIER

BACKBONE = "backbone."  # in front of a backbone's names inside a detector or segmenter
STEMS = ("downsample_layers.0.0.weight", "stem.weight")  # four stages; isotropic


def identify(tensors: Mapping[str, Tensor]) -> dict | None:
    """See `models.identify`."""
    from convnext.models import convnext, isotropic

    names: dict[tuple, str] = {(size.depths, size.dims): name for name, size in convnext.SIZES.items()}
    names |= {((size.depth,), (size.dim,)): name for name, size in isotropic.SIZES.items()}
    name = names.get(stages(tensors))
    return {"name": name, **options(tensors)} if name else None


def identify_backbone(tensors: Mapping[str, Tensor]) -> dict | None:
    """`identify` for the backbone of a detector or segmenter, without its number of classes, which is None."""
    found = identify({name.removeprefix(BACKBONE): t for name, t in tensors.items() if name.startswith(BACKBONE)})
    return found and {key: value for key, value in found.items() if key != "num_classes"}


def stages(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of each stage; an isotropic model has one. Both are empty when there are no blocks."""
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"(?:stages\.(\d{1,3})|blocks)\.\d+\.dwconv\.weight", name):
            stage = int(found[1] or 0)
            depths[stage] = depths.get(stage, 0) + 1
            dims[stage] = tensor.shape[0] if tensor.ndim else 0
    return tuple(depths[i] for i in sorted(depths)), tuple(dims[i] for i in sorted(dims))


def options(tensors: Mapping[str, Tensor]) -> dict:
    """`num_classes` (None without a classifier), `layer_scale_init_value` (0 without LayerScale) and `in_chans`."""
    found = {
        "num_classes": CLASSIFIER.num_classes(tensors),
        "layer_scale_init_value": 1e-6 if any(name.endswith(".gamma") for name in tensors) else 0.0,
    }
    stem = next((tensors[name] for name in STEMS if name in tensors), None)
    return found if stem is None or stem.ndim != 4 else {**found, "in_chans": stem.shape[1]}


def describe(tensors: Mapping[str, Tensor]) -> str:
    """A name for a message, or the blocks and channels that were found."""
    inside = {name.removeprefix(BACKBONE): t for name, t in tensors.items() if name.startswith(BACKBONE)}
    depths, dims = stages(inside or tensors)
    found = (identify(inside or tensors) or {}).get("name") or f"a model of depths {depths} and dims {dims}"
    return f"{found} inside a detector or segmenter" if inside else found
