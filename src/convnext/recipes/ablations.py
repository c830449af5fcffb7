"""Ablations of the paper's text (Section 2.6 and Section A.1), with Table 5's setting as the roadmap's steps are trained."""

from convnext.recipes.roadmap import DROP_PATH_RATES
from convnext.recipes.schema import Classification, Ema, Model

TOLD = {
    "first-norm": "one more BN at the block's start does not improve (Section 2.6)",
    "resnet-layer-norm": "LN in the plain ResNet is suboptimal (Section 2.6)",
    "bare-downsampling": "separate downsampling without norms diverges (Section 2.6)",
}

RECIPES = {
    f"ablation/{key}": Classification(
        source=f"the text: {told}",
        model=Model(f"ablation_{key}", drop_path_rate=DROP_PATH_RATES["resnet50"]),
        ema=Ema(decay=None),
    )
    for key, told in TOLD.items()
} | {
    "ablation/batch-norm-ema": Classification(
        source="the text: EMA severely hurts models with BN (Section A.1)",
        model=Model("roadmap_resnet50_fewer-norms", drop_path_rate=DROP_PATH_RATES["resnet50"]),
    )
}
