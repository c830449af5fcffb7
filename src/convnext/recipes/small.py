"""Ours: presets for people's own data on one GPU or a CPU, where the paper's constants do not fit.

EMA half-life, warm-up and drop-path are stated as shares of the run, because the paper's 0.9999 (a half-life of 6,931
steps) and 20 epochs of warm-up are longer than most such runs.
"""

from convnext.recipes.schema import (
    Augment,
    Classification,
    DenseModel,
    Detection,
    Ema,
    Model,
    Optim,
    PolyOptim,
    Runtime,
    Segmentation,
    Segmenter,
    StepOptim,
)  # fmt: skip

RECIPES = {
    "quickstart": Classification(
        source="ours: scikit-learn's handwritten digits, less than a minute on two CPU cores",
        data="digits",
        image_size=8,
        epochs=12,
        total_batch=64,
        device_batch=64,
        model=Model("convnext_atto", drop_path_rate=0.0, stem_stride=1),
        # digits: no flips, no colour; a one-pixel shift is an eighth of the image
        augment=Augment(hflip=0.0, rand_augment=None, random_erasing=0.0, crop_padding=1, mixup=0.0, cutmix=0.0),
        optim=Optim(lr=2e-3, warmup_epochs=None, warmup_share=0.1),
        ema=Ema(decay=None, half_life_share=0.02),
        runtime=Runtime(workers=0),
    ),
    "small/scratch": Classification(
        source="ours: from random weights, 1,000 to 100,000 images of 32 to 64 px (docs/small-data.md)",
        image_size=32,
        epochs=50,
        total_batch=128,
        device_batch=128,
        # a LayerScale of 1e-6 loses the first epochs, and a short run underfits under the paper's augmentation
        model=Model("convnext_atto", drop_path_rate=None, layer_scale_init_value=0.0, stem_stride=2),
        augment=Augment(rand_augment=None, random_erasing=0.0, mixup=0.0, cutmix=0.0),
        optim=Optim(lr=2e-3, warmup_epochs=None, warmup_share=0.05),
        ema=Ema(decay=None, half_life_share=0.01),
    ),
    "small/finetune": Classification(
        source="ours: from pre-trained weights, 1,000 to 100,000 images (docs/small-data.md)",
        image_size=224,
        epochs=30,
        total_batch=128,
        device_batch=32,
        model=Model("convnext_tiny", drop_path_rate=None, head_init_scale=0.001),
        augment=Augment(mixup=0.0, cutmix=0.0),
        optim=Optim(lr=1e-3, weight_decay=1e-8, warmup_epochs=None, warmup_share=0.05, layer_decay=0.8),
        ema=Ema(decay=None, half_life_share=0.01),
    ),
    "small/linear-probe": Classification(
        source="ours: a new classifier on frozen pre-trained features, from 100 images on; minutes on a CPU",
        image_size=224,
        epochs=20,
        total_batch=64,
        device_batch=64,
        model=Model("convnext_tiny", drop_path_rate=0.0, head_init_scale=0.001),
        augment=Augment(
            crop_scale=(0.35, 1.0), rand_augment=None, random_erasing=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0
        ),
        optim=Optim(lr=2e-3, weight_decay=0.0, warmup_epochs=None, warmup_share=0.05),
        ema=Ema(decay=None, half_life_share=0.01),
        freeze=("backbone",),
    ),
    "small/detect": Detection(
        source="ours: from the released COCO detector, a few hundred to some ten thousand images",
        epochs=24,
        total_batch=8,
        device_batch=4,
        model=DenseModel("mask_rcnn_convnext_tiny", drop_path_rate=0.1, weights="mask_rcnn_convnext_tiny.coco"),
        optim=StepOptim(
            lr=1e-4, milestone_shares=(16 / 24, 22 / 24), warmup_steps=None, layer_decay=0.8, clip_grad=35.0
        ),
        ema=Ema(decay=None, half_life_share=0.01),
    ),
    "small/segment": Segmentation(
        source="ours: from the released ADE20K segmenter, a few hundred to some ten thousand images",
        steps=10_000,
        eval_every=1000,
        total_batch=8,
        device_batch=4,
        model=Segmenter("upernet_convnext_tiny", drop_path_rate=0.1, weights="upernet_convnext_tiny.ade20k_512"),
        optim=PolyOptim(lr=1e-4, warmup_steps=None, warmup_share=0.02, layer_decay=0.9),
        ema=Ema(decay=None, half_life_share=0.01),
    ),
}
