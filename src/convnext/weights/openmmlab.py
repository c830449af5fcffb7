"""The names of OpenMMLab's ConvNeXt (mmpretrain), alone and inside the detectors of mmdet 3 and the segmenters of mmseg 1.

Only three layers of a block have other names than the reference's; a classifier stands under `backbone.`.
"""

import re
from collections.abc import Iterable

from convnext.weights.names import Tensors

LAYERS = {"depthwise_conv": "dwconv", "pointwise_conv1": "pwconv1", "pointwise_conv2": "pwconv2"}
DENSE = ("decode_head.", "roi_head.", "rpn_head.", "bbox_head.", "neck.")


def matches(keys: Iterable[str]) -> bool:
    return any(key.removeprefix("backbone.") == "stages.0.0.depthwise_conv.weight" for key in keys)


def to_ours(tensors: Tensors) -> Tensors:
    """Names of a block, and those of a classifier; 1x1 convolutions (O, I, 1, 1) become linear ones (O, I)."""
    inside = any(name.startswith(DENSE) or name.removeprefix("backbone.") == "norm0.weight" for name in tensors)
    return {
        _renamed(name, inside): t.flatten(1) if re.search(r"pointwise_conv\d\.weight$", name) else t
        for name, t in tensors.items()
    }


def _renamed(name: str, inside: bool) -> str:
    name = re.sub(r"\.(depthwise_conv|pointwise_conv[12])\.", lambda found: f".{LAYERS[found[1]]}.", name)
    if inside:
        return name
    return re.sub(
        r"^(norm)3(?=\.)|^(head)\.fc(?=\.)", lambda found: found[1] or found[2], name.removeprefix("backbone.")
    )
