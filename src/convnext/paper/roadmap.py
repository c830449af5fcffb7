"""Tables 10 and 11: from ResNet to ConvNeXt, step by step (Section 2, Appendix C)."""

from dataclasses import dataclass
from typing import Literal

from convnext.errors import ConvNextError
from convnext.paper.lookup import find

Regime = Literal["resnet50", "resnet200"]

STEPS = {
    "resnet": "ResNet",
    "stage-ratio": "stage ratio",
    "patchify-stem": '"patchify" stem',
    "depthwise": "depthwise conv",
    "width": "increase width",
    "inverting": "inverting dimensions",
    "move-up": "move up depthwise conv",
    "kernel-5": "kernel size → 5",
    "kernel-7": "kernel size → 7",
    "kernel-9": "kernel size → 9",
    "kernel-11": "kernel size → 11",
    "gelu": "ReLU → GELU",
    "fewer-activations": "fewer activations",
    "fewer-norms": "fewer norms",
    "layer-norm": "BN → LN",
    "separate-downsampling": "separate downsampling",
}
"""Key -> label of the roadmap's steps, in order. Each is one change to the step before; `gelu` is to `kernel-7`. In the
ResNet-200 regime `stage-ratio` also widens the network from 64 to 84 (Appendix C)."""

NOT_ADOPTED = frozenset({"kernel-9", "kernel-11"})
"""Steps that were tried and left (hatched in Figure 2)."""


GROUPS = {
    "macro design": ("stage-ratio", "patchify-stem"),
    "ResNeXt": ("depthwise", "width"),
    "inverted bottleneck": ("inverting",),
    "large kernels": ("move-up", "kernel-5", "kernel-7", "kernel-9", "kernel-11"),
    "micro design": ("gelu", "fewer-activations", "fewer-norms", "layer-norm", "separate-downsampling"),
}
"""Sections 2.2 to 2.6."""


@dataclass(frozen=True)
class Step:
    """A row of Table 10 or 11: ImageNet-1K top-1, and GFLOPs as printed. `std` is over three seeds (Table 10)."""

    key: str
    top1: float
    std: float | None
    gflops: float
    macs: int
    """Multiply-accumulates of the architecture, counted exactly."""
    note: str = ""

    @property
    def misprinted(self) -> bool:
        return round(self.macs / 1e9, 2) != self.gflops


@dataclass(frozen=True)
class Reference:
    """A model that Tables 10 and 11 print beside the steps."""

    name: str
    top1: float
    gflops: float


@dataclass(frozen=True)
class Roadmap:
    """One regime: the ResNet with its plain recipe, the steps, and the Swin that they are held against."""

    name: str
    plain: Reference
    steps: tuple[Step, ...]
    swin: Reference


# what follows kernel-7 changes activations and norms, which are not counted
_R50_K7, _R200_K7 = 4_145_612_928, 14_806_631_936
_SHIFTED = (
    "the last GFLOPs of Table 10 are shifted one row: its 4.46 is ConvNeXt-T, 4.49 is Swin-T (Figure 2 shows 4.2, 4.5)"
)

ROADMAPS = {
    # Table 10
    "resnet50": Roadmap(
        "ResNet-50 / Swin-T",
        Reference("ResNet-50 (PyTorch)", 76.13, 4.09),
        (
            Step("resnet", 78.82, 0.07, 4.09, 4_089_184_256),
            Step("stage-ratio", 79.36, 0.07, 4.53, 4_525_916_160),
            Step("patchify-stem", 79.51, 0.18, 4.42, 4_417_536_000),
            Step("depthwise", 78.28, 0.08, 2.35, 2_349_507_072),
            Step("width", 80.50, 0.02, 5.27, 5_267_976_960),
            Step("inverting", 80.64, 0.03, 4.64, 4_644_406_272),
            Step("move-up", 79.92, 0.08, 4.07, 4_065_080_448),
            Step("kernel-5", 80.35, 0.08, 4.10, 4_097_293_440),
            Step("kernel-7", 80.57, 0.14, 4.15, _R50_K7),
            Step("kernel-9", 80.57, 0.06, 4.21, 4_210_038_912),
            Step("kernel-11", 80.47, 0.11, 4.29, 4_290_571_392),
            Step("gelu", 80.62, 0.14, 4.15, _R50_K7),
            Step("fewer-activations", 81.27, 0.06, 4.15, _R50_K7),
            Step("fewer-norms", 81.41, 0.09, 4.15, _R50_K7),
            Step("layer-norm", 81.47, 0.09, 4.46, _R50_K7, _SHIFTED),
            Step("separate-downsampling", 81.97, 0.06, 4.49, 4_455_531_264, _SHIFTED),
        ),
        Reference("Swin-T", 81.30, 4.50),
    ),
    # Table 11
    "resnet200": Roadmap(
        "ResNet-200 / Swin-B",
        Reference("ResNet-200", 78.20, 15.01),
        (
            Step("resnet", 81.14, None, 15.01, 15_007_481_856),
            Step("stage-ratio", 81.33, None, 14.52, 14_518_404_096),
            Step("patchify-stem", 81.59, None, 14.38, 14_376_155_136),
            Step("depthwise", 80.54, None, 7.23, 7_234_368_288),
            Step("width", 81.85, None, 16.76, 16_763_933_696),
            Step("inverting", 82.64, None, 15.68, 15_679_418_368),
            Step("move-up", 82.04, None, 14.63, 14_627_001_856),
            Step("kernel-5", 82.32, None, 14.70, 14_698_853_888),
            Step("kernel-7", 82.30, None, 14.81, _R200_K7),
            Step("kernel-9", 82.27, None, 14.95, 14_950_336_000),
            Step("kernel-11", 82.18, None, 15.13, 15_129_966_080),
            Step("gelu", 82.19, None, 14.81, _R200_K7),
            Step("fewer-activations", 82.71, None, 14.81, _R200_K7),
            Step("fewer-norms", 83.17, None, 14.81, _R200_K7),
            Step("layer-norm", 83.35, None, 14.81, _R200_K7),
            Step("separate-downsampling", 83.60, None, 15.35, 15_354_729_472),
        ),
        Reference("Swin-B", 83.50, 15.43),
    ),
}


def roadmap_step(regime: Regime, key: str) -> Step:
    """The row of Table 10 (`regime` "resnet50") or 11 ("resnet200") for a key of `STEPS`."""
    if regime not in ROADMAPS:
        raise ConvNextError(f"The roadmap has no regime {regime!r}: choose {' or '.join(map(repr, ROADMAPS))}.")
    return find(ROADMAPS[regime].steps, key=key)
