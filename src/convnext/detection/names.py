"""Names of the detectors. Apart from the detectors, which take torchvision: its import takes seconds."""

from convnext.models import convnext

KINDS = ("mask_rcnn", "cascade_mask_rcnn")
SIZES = {f"{kind}_{name}": size for kind in KINDS for name, size in convnext.SIZES.items()}
