"""Which model a set of tensors (our names) belongs to, read from names and shapes."""

import re

from convnext.errors import ConvNextError
from convnext.models import convnext, isotropic
from convnext.weights.names import Tensors


def architecture(tensors: Tensors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of each stage; an isotropic model has one. Both are empty when there are no blocks."""
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"(?:stages\.(\d+)|blocks)\.\d+\.dwconv\.weight", name):
            stage = int(found[1] or 0)
            depths[stage] = depths.get(stage, 0) + 1
            dims[stage] = tensor.shape[0]
    return tuple(depths[i] for i in sorted(depths)), tuple(dims[i] for i in sorted(dims))


def model_name(tensors: Tensors) -> str | None:
    """The name of the model with these blocks and channels, None when there is none."""
    names: dict[tuple, str] = {(size.depths, size.dims): name for name, size in convnext.SIZES.items()}
    names |= {((size.depth,), (size.dim,)): name for name, size in isotropic.SIZES.items()}
    return names.get(architecture(tensors))


def describe(tensors: Tensors) -> str:
    """A name for a message, or the blocks and channels that were found."""
    if any(name.startswith("backbone.") for name in tensors):
        return "a detector or segmenter"
    depths, dims = architecture(tensors)
    return model_name(tensors) or f"a model of depths {depths} and dims {dims}"


def options(tensors: Tensors) -> dict:
    """`num_classes` (None without a classifier), `layer_scale_init_value` (0 without LayerScale) and `in_chans`.

    Drop-path and the stride of the stem leave no trace in the tensors.
    """
    found = {
        "num_classes": tensors["head.weight"].shape[0] if "head.weight" in tensors else None,
        "layer_scale_init_value": 1e-6 if any(name.endswith(".gamma") for name in tensors) else 0.0,
    }
    for stem in ("downsample_layers.0.0.weight", "stem.weight"):
        if stem in tensors:
            found["in_chans"] = tensors[stem].shape[1]
    return found


def infer_model(tensors: Tensors) -> dict:
    """The `name` and the `options` with which `convnext.models.build` makes the model of these tensors.

    Raises:
        ConvNextError: no model has these blocks and channels.
    """
    name = model_name(tensors)
    if name is None:
        raise ConvNextError(
            f"The checkpoint holds {describe(tensors)}, which is none of "
            f"{', '.join([*convnext.SIZES, *isotropic.SIZES])}. For a size of your own, build "
            "`convnext.models.convnext.ConvNeXt(depths, dims)` and give it to `load_weights`."
        )
    return {"name": name, **options(tensors)}
