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
        if found := re.fullmatch(r"(?:backbone\.)?(?:stages\.(\d+)|blocks)\.\d+\.dwconv\.weight", name):
            stage = int(found[1] or 0)
            depths[stage] = depths.get(stage, 0) + 1
            dims[stage] = tensor.shape[0]
    return tuple(depths[i] for i in sorted(depths)), tuple(dims[i] for i in sorted(dims))


def model_name(tensors: Tensors) -> str | None:
    """The name of the model with these blocks and channels, None when there is none."""
    names: dict[tuple, str] = {(size.depths, size.dims): name for name, size in convnext.SIZES.items()}
    names |= {((size.depth,), (size.dim,)): name for name, size in isotropic.SIZES.items()}
    name, around = names.get(architecture(tensors)), meta_architecture(tensors)
    return f"{around}_{name}" if name and around else name


def meta_architecture(tensors: Tensors) -> str | None:
    """What is built around the backbone: cascade_mask_rcnn, mask_rcnn or upernet; None for a classifier or backbone."""
    for name, kind in (
        ("roi_head.bbox_head.0.fc_cls.weight", "cascade_mask_rcnn"),
        ("roi_head.bbox_head.fc_cls.weight", "mask_rcnn"),
        ("decode_head.conv_seg.weight", "upernet"),
    ):
        if name in tensors:
            return kind
    return None


def task(tensors: Tensors) -> str:
    """classification, detection or segmentation."""
    return {None: "classification", "upernet": "segmentation"}.get(meta_architecture(tensors), "detection")


def class_tensors(tensors: Tensors) -> list[str]:
    """The names of the tensors whose size is the number of classes, or a multiple."""
    return [name for name in tensors if re.search(r"^head\.|\.(fc_cls|fc_reg|conv_logits|conv_seg)\.", name)]


def num_classes(tensors: Tensors) -> int | None:
    """Classes of the head; None without one. A detector's classifier has one output more, for the background."""
    for name, more in (
        ("head.weight", 0),
        ("roi_head.bbox_head.0.fc_cls.weight", 1),
        ("roi_head.bbox_head.fc_cls.weight", 1),
        ("decode_head.conv_seg.weight", 0),
    ):
        if name in tensors:
            return tensors[name].shape[0] - more
    return None


def describe(tensors: Tensors) -> str:
    """A name for a message, or the blocks and channels that were found."""
    depths, dims = architecture(tensors)
    found = model_name(tensors) or f"a model of depths {depths} and dims {dims}"
    inside = any(name.startswith("backbone.") for name in tensors) and meta_architecture(tensors) is None
    return f"{found} inside a detector or segmenter" if inside else found


def options(tensors: Tensors) -> dict:
    """`num_classes` (None without a classifier), `layer_scale_init_value` (0 without LayerScale) and `in_chans`.

    Drop-path and the stride of the stem leave no trace in the tensors.
    """
    found = {
        "num_classes": num_classes(tensors),
        "layer_scale_init_value": 1e-6 if any(name.endswith(".gamma") for name in tensors) else 0.0,
    }
    for stem in ("downsample_layers.0.0.weight", "stem.weight", "backbone.downsample_layers.0.0.weight"):
        if stem in tensors:
            found["in_chans"] = tensors[stem].shape[1]
    return found


def infer_model(tensors: Tensors) -> dict:
    """The `name` and the `options` with which `build` (of models, detection or segmentation) makes the model of these
    tensors.

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
