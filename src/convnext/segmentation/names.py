"""Names of the segmenters, and how their tensors are told."""

from collections.abc import Mapping

from torch import Tensor

from convnext.models import convnext
from convnext.models.outputs import OutputLayers
from convnext.models.recognise import identify_backbone

SIZES = {f"upernet_{name}": size for name, size in convnext.SIZES.items()}
OUTPUTS = OutputLayers(layers=r"(decode|auxiliary)_head\.conv_seg\.", counted=r"decode_head\.conv_seg\.weight")
WIDTHS = {"channels": "decode_head.conv_seg.weight", "auxiliary_channels": "auxiliary_head.conv_seg.weight"}


def identify(tensors: Mapping[str, Tensor]) -> dict | None:
    """The `name` and options with which `segmenter.build` makes the segmenter of these tensors; None if it is none."""
    backbone, heads = identify_backbone(tensors), {key: tensors.get(name) for key, name in WIDTHS.items()}
    if backbone is None or f"upernet_{backbone['name']}" not in SIZES or heads["channels"] is None:
        return None
    widths = {key: head.shape[1] for key, head in heads.items() if head is not None and head.ndim == 4}
    classes = OUTPUTS.num_classes(tensors)
    return {**backbone, "name": f"upernet_{backbone['name']}", "num_classes": classes, **widths}
