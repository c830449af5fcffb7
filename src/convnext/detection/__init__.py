"""Mask R-CNN and Cascade Mask R-CNN on a ConvNeXt backbone (Table 3): anchors to pasted masks, with the reference's semantics."""
