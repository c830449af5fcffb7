"""Table 6: fine-tuning on ImageNet-1K from ImageNet-1K weights (384 px) and ImageNet-22K weights (224 and 384 px).

The thesis version (Table 2.6) adds T and S from ImageNet-22K and the scale of a new head, 0.001, in both columns; it
does nothing where the checkpoint's 1,000 classes are kept. Runs start from the final weights of pre-training, not from
their average, but for L from ImageNet-1K (Section A.2).
"""

from convnext.recipes.schema import Augment, Classification, Ema, Model, Optim

PAPER_1K = {"base": (0.8, "convnext_base.in1k_raw"), "large": (0.95, "convnext_large.in1k")}
PAPER_22K = {"base": 0.2, "large": 0.3, "xlarge": 0.4}
THESIS_22K = {"tiny": 0.0, "small": 0.1}
EMA_22K = {"xlarge"}


def _finetune(size: str, rate: float, px: int, layer_decay: float, weights: str, ema: float | None, source: str):
    return Classification(
        source=source,
        image_size=px,
        epochs=30,
        total_batch=512,
        device_batch=32,
        model=Model(f"convnext_{size}", drop_path_rate=rate, head_init_scale=0.001, weights=weights),
        augment=Augment(mixup=0.0, cutmix=0.0),
        optim=Optim(lr=5e-5, weight_decay=1e-8, warmup_epochs=0.0, layer_decay=layer_decay),
        ema=Ema(decay=ema),
        published_precision="fp32",
        upright=False,
    )


def _from_22k(size: str, rate: float, px: int, source: str) -> Classification:
    return _finetune(size, rate, px, 0.8, f"convnext_{size}.in22k", 0.9999 if size in EMA_22K else None, source)


RECIPES = {
    f"table6/{s}-384": _finetune(s, r, 384, 0.7, weights, None, "Table 6, ImageNet-1K -> 1K at 384")
    for s, (r, weights) in PAPER_1K.items()
} | {
    f"table6/{s}-22k-1k-{px}": _from_22k(s, r, px, f"{origin}, ImageNet-22K -> 1K at {px}")
    for rates, origin in ((PAPER_22K, "Table 6"), (THESIS_22K, "thesis: Table 2.6"))
    for s, r in rates.items()
    for px in (224, 384)
}
