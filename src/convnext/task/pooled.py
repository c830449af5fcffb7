"""The features of an image as one vector: a stage's map, averaged over its positions."""

from typing import Any

from torch import Tensor, nn

from convnext.errors import ConvNextError


def pooled(module: nn.Module, x: Tensor, stage: int | None = None) -> Tensor:
    """Features (B, C) fp32 of images x (B, 3, H, W), normalised.

    Args:
        module: a network that publishes feature maps, or one around such a backbone.
        stage: 0, 1, ..; the last if None.

    Raises:
        ConvNextError: no feature maps, as in an exported file, or no such stage.
    """
    maps: Any = getattr(getattr(module, "backbone", module), "feature_maps", None)
    if maps is None:
        raise ConvNextError("An exported file has no feature maps to take vectors from; give the checkpoint.")
    found = list(maps(x).values())
    if stage is not None and not 0 <= stage < len(found):
        raise ConvNextError(f"There is no stage {stage}: this network has the stages 0 to {len(found) - 1}.")
    return found[-1 if stage is None else stage].float().mean((2, 3))
