"""Tables 8 and 9, and the published errors that Table 8 is computed with."""

from dataclasses import dataclass

from convnext.paper.lookup import Pretrain, find


@dataclass(frozen=True)
class Robustness:
    """A row of Table 8. `c` (mean corruption error) and `c_bar` (mean error): lower is better; the rest is top-1."""

    model: str
    pretrain: Pretrain
    size: int
    gflops: float
    params_m: float
    clean: float
    c: float
    c_bar: float | None
    a: float
    r: float
    sketch: float


TABLE8 = (
    Robustness("ResNet-50", "1k", 224, 4.1, 25.6, 76.1, 76.7, 57.7, 0.0, 36.1, 24.1),
    # Swin's clean accuracies are 0.1 below Table 1's, as printed
    Robustness("Swin-T", "1k", 224, 4.5, 28.3, 81.2, 62.0, None, 21.6, 41.3, 29.1),
    Robustness("RVT-S*", "1k", 224, 4.7, 23.3, 81.9, 49.4, 37.5, 25.7, 47.7, 34.7),
    Robustness("ConvNeXt-T", "1k", 224, 4.5, 28.6, 82.1, 53.2, 40.0, 24.2, 47.2, 33.8),
    Robustness("Swin-B", "1k", 224, 15.4, 87.8, 83.4, 54.4, None, 35.8, 46.6, 32.4),
    Robustness("RVT-B*", "1k", 224, 17.7, 91.8, 82.6, 46.8, 30.8, 28.5, 48.7, 36.0),
    Robustness("ConvNeXt-B", "1k", 224, 15.4, 88.6, 83.8, 46.8, 34.4, 36.7, 51.3, 38.2),
    Robustness("ConvNeXt-B", "22k", 384, 45.1, 88.6, 86.8, 43.1, 30.7, 62.3, 64.9, 51.6),
    Robustness("ConvNeXt-L", "22k", 384, 101.0, 197.8, 87.5, 40.2, 29.9, 65.5, 66.7, 52.8),
    Robustness("ConvNeXt-XL", "22k", 384, 179.0, 350.2, 87.8, 38.8, 27.1, 69.3, 68.2, 55.0),
)

TABLE9 = tuple(row for row in TABLE8 if row.model in ("ResNet-50", "ConvNeXt-T", "Swin-T"))
"""Table 9's totals (`gflops`, `params_m`) are those of Table 8; its stages are the models' own depths and widths."""

ALEXNET_ERRORS = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}
"""AlexNet's mean error over the five severities of each ImageNet-C corruption (Hendrycks and Dietterich, 2019),
by which a model's is divided to give mCE."""

ALEXNET_CLEAN_ERROR = 43.48
"""AlexNet's error on the clean validation images, for relative mCE: torchvision documents these weights with a top-1 of
56.522."""

# Published without their names beside them, so their order says nothing about which corruption is which.
RESNET50_C_BAR_ERRORS = (68.6, 71.7, 49.4, 84.7, 79.0, 37.5, 34.3, 32.4, 76.7, 42.8)
"""ResNet-50's errors on the ten ImageNet-C-bar corruptions, whose mean is Table 8's."""


def robustness(model: str, pretrain: Pretrain = "1k") -> Robustness:
    """The row of Table 8."""
    return find(TABLE8, model=model, pretrain=pretrain)
