"""Names of models whose backbone is another library's; apart from the backbone, so that no torch is imported."""

MARK = "+timm:"
"""Between the heads and the backbone in a model's name: `mask_rcnn+timm:resnet50`."""
