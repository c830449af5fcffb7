"""Ours: presets for datasets of a few thousand to a hundred thousand images, where the paper's constants do not fit.

EMA half-life, warm-up and drop-path are stated as shares of the run, because the paper's 0.9999 (a half-life of 6,931
steps) and 20 epochs of warm-up are longer than most such runs.
"""

from convnext.recipes.schema import Augment, Ema, Model, Optim, Recipe, Runtime

RECIPES = {
    "quickstart": Recipe(
        source="ours: scikit-learn's handwritten digits, about a minute on two CPU cores",
        data="digits",
        image_size=8,
        epochs=20,
        total_batch=64,
        device_batch=64,
        model=Model("convnext_atto", drop_path_rate=0.0, stem_stride=1),
        # digits: no flips, no colour; a one-pixel shift is an eighth of the picture
        augment=Augment(hflip=0.0, rand_augment=None, random_erasing=0.0, crop_padding=1, mixup=0.0, cutmix=0.0),
        optim=Optim(lr=2e-3, warmup_epochs=None, warmup_share=0.1),
        ema=Ema(decay=None, half_life_share=0.02),
        runtime=Runtime(workers=0),
    ),
    "small/scratch": Recipe(
        source="ours: from random weights, 5,000 to 100,000 images of 32 to 64 px",
        image_size=32,
        epochs=50,
        total_batch=256,
        device_batch=256,
        model=Model("convnext_atto", drop_path_rate=None, stem_stride=2),
        optim=Optim(lr=2e-3, warmup_epochs=None, warmup_share=0.05),
        ema=Ema(decay=None, half_life_share=0.01),
    ),
    "small/finetune": Recipe(
        source="ours: from pre-trained weights, 1,000 to 100,000 images",
        image_size=224,
        epochs=30,
        total_batch=128,
        device_batch=32,
        model=Model("convnext_tiny", drop_path_rate=None, head_init_scale=0.001),
        augment=Augment(mixup=0.0, cutmix=0.0),
        optim=Optim(lr=2e-4, weight_decay=1e-8, warmup_epochs=None, warmup_share=0.05, layer_decay=0.8),
        ema=Ema(decay=None, half_life_share=0.01),
    ),
}
