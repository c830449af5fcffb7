"""COCO (Table 3, Section A.3): Mask R-CNN and Cascade Mask R-CNN, 36 epochs, 8 GPUs of 2 images."""

from convnext.recipes.schema import DenseModel, Detection, DetectionAugment, StepOptim

# model, lr, layer decay, drop-path, the classification weights that the backbone starts from
PAPER = {
    "mask-rcnn-tiny": ("mask_rcnn_convnext_tiny", 1e-4, 0.95, 0.4, "convnext_tiny.in1k_raw"),
    "cascade-tiny": ("cascade_mask_rcnn_convnext_tiny", 2e-4, 0.7, 0.4, "convnext_tiny.in1k_raw"),
    "cascade-small": ("cascade_mask_rcnn_convnext_small", 2e-4, 0.7, 0.6, "convnext_small.in1k_raw"),
    "cascade-base": ("cascade_mask_rcnn_convnext_base", 2e-4, 0.8, 0.7, "convnext_base.in1k_raw"),
    "cascade-base-22k": ("cascade_mask_rcnn_convnext_base", 1e-4, 0.8, 0.6, "convnext_base.in22k"),
    "cascade-large-22k": ("cascade_mask_rcnn_convnext_large", 1e-4, 0.7, 0.7, "convnext_large.in22k"),
    "cascade-xlarge-22k": ("cascade_mask_rcnn_convnext_xlarge", 1e-4, 0.7, 0.8, "convnext_xlarge.in22k"),
}

WITHOUT_AMP = ("cascade-large-22k", "cascade-xlarge-22k")  # the others were trained with apex, level O1

RECIPES = {
    f"coco/{name}": Detection(
        source="Table 3, COCO, 3x schedule (Section A.3)",
        model=DenseModel(model, drop_path_rate=rate, weights=weights),
        augment=DetectionAugment(as_reference=True),
        optim=StepOptim(lr=lr, layer_decay=decay),
        published_precision="fp32" if name in WITHOUT_AMP else "fp16",
    )
    for name, (model, lr, decay, rate, weights) in PAPER.items()
}
