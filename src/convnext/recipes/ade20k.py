"""ADE20K (Tables 4 and 7, Section A.3): UperNet, 160,000 iterations, 8 GPUs of 2 images."""

from convnext.recipes.schema import PolyOptim, Segmentation, SegmentationAugment, Segmenter

# size, lr, drop-path, the classification weights that the backbone starts from
PAPER = {
    "tiny": ("tiny", 1e-4, 0.4, "convnext_tiny.in1k_raw"),
    "small": ("small", 1e-4, 0.3, "convnext_small.in1k_raw"),
    "base": ("base", 1e-4, 0.4, "convnext_base.in1k_raw"),
    "base-22k": ("base", 1e-4, 0.4, "convnext_base.in22k"),
    "large-22k": ("large", 1e-4, 0.4, "convnext_large.in22k"),
    "xlarge-22k": ("xlarge", 8e-5, 0.4, "convnext_xlarge.in22k"),
}
AT_640 = SegmentationAugment(short=640, long=2560, crop=640)  # models pre-trained on ImageNet-22K

WITHOUT_AMP = ("large-22k", "xlarge-22k")  # the others were trained with apex, level O1

RECIPES = {
    f"ade20k/upernet-{name}": Segmentation(
        source=f"Table 4, ADE20K, {'ImageNet-22K at 640' if '22k' in name else 'ImageNet-1K at 512'} (Section A.3)",
        model=Segmenter(f"upernet_convnext_{size}", drop_path_rate=rate, weights=weights),
        augment=AT_640 if "22k" in name else SegmentationAugment(),
        optim=PolyOptim(lr=lr, layer_decay=0.9),
        published_precision="fp32" if name in WITHOUT_AMP else "fp16",
    )
    for name, (size, lr, rate, weights) in PAPER.items()
}
