"""Table 6: fine-tuning on ImageNet-1K from ImageNet-1K weights (384 px) and ImageNet-22K weights (224 and 384 px)."""

from convnext.recipes.schema import Augment, Classification, Ema, Model, Optim

PAPER_1K = {"base": 0.8, "large": 0.95}
PAPER_22K = {"base": 0.2, "large": 0.3, "xlarge": 0.4}
OURS_22K = {"tiny": 0.0, "small": 0.1}
EMA_22K = {"xlarge"}


def _finetune(size: str, rate: float, px: int, layer_decay: float, head_scale: float, ema: float | None, source: str):
    return Classification(
        source=source,
        image_size=px,
        epochs=30,
        total_batch=512,
        device_batch=32,
        model=Model(f"convnext_{size}", drop_path_rate=rate, head_init_scale=head_scale),
        augment=Augment(mixup=0.0, cutmix=0.0),
        optim=Optim(lr=5e-5, weight_decay=1e-8, warmup_epochs=0.0, layer_decay=layer_decay),
        ema=Ema(decay=ema),
    )


def _from_22k(size: str, rate: float, px: int, source: str) -> Classification:
    # the 21,841-class head is replaced: the new one starts at a thousandth of its usual size
    return _finetune(size, rate, px, 0.8, 0.001, 0.9999 if size in EMA_22K else None, source)


RECIPES = {
    f"table6/{s}-384": _finetune(s, r, 384, 0.7, 1.0, None, "Table 6, ImageNet-1K -> 1K at 384")
    for s, r in PAPER_1K.items()
} | {
    f"table6/{s}-22k-1k-{px}": _from_22k(s, r, px, f"{origin}, ImageNet-22K -> 1K at {px}")
    for rates, origin in ((PAPER_22K, "Table 6"), (OURS_22K, "ours: Table 6, other size"))
    for s, r in rates.items()
    for px in (224, 384)
}
