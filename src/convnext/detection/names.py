"""Names of the detectors, and how their tensors are told. Apart from the detectors: torchvision's import takes seconds."""

from collections.abc import Mapping

from torch import Tensor

from convnext.models import convnext
from convnext.models.outputs import OutputLayers
from convnext.models.recognise import identify_backbone

FIRST_CLASSIFIER = {
    "cascade_mask_rcnn": "roi_head.bbox_head.0.fc_cls.weight",
    "mask_rcnn": "roi_head.bbox_head.fc_cls.weight",
}
KINDS = ("mask_rcnn", "cascade_mask_rcnn")
SIZES = {f"{kind}_{name}": size for kind in KINDS for name, size in convnext.SIZES.items()}
OUTPUTS = OutputLayers(
    layers=r"roi_head\.(bbox|mask)_head\.(\d\.)?(fc_cls|fc_reg|conv_logits)\.",
    counted=r"roi_head\.bbox_head\.(0\.)?fc_cls\.weight",
    besides=1,  # the background
)


def identify(tensors: Mapping[str, Tensor]) -> dict | None:
    """The `name` and options with which `detector.build` makes the detector of these tensors; None if it is none."""
    kind = next((kind for kind, name in FIRST_CLASSIFIER.items() if name in tensors), None)
    backbone = identify_backbone(tensors)
    if kind is None or backbone is None or f"{kind}_{backbone['name']}" not in SIZES:
        return None
    return {**backbone, "name": f"{kind}_{backbone['name']}", "num_classes": OUTPUTS.num_classes(tensors)}
