"""Maps of the places that speak for a class: LayerCAM (Jiang et al., 2021) on the outputs of the stages.

Legend: B images, C channels, h w positions of a stage, K classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError


def stage_maps(model: nn.Module, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
    """Logits (B, K), for each stage a map (B, h, w) in 0..1, and the class (B,) of each image that it is about.

    A map is relu(sum over channels of relu(dy/dA) A), for the stage's output A and the logit y of the class, over its
    largest value (equation 7 of the paper). It says where the stage has what raises the logit; all zeros: nowhere.

    Args:
        model: a classifier that publishes `stage_parts`, in evaluation mode, not deployed.
        x: (B, 3, H, W), normalised.
        classes: (B,); the likeliest of each image if None.

    Raises:
        ConvNextError: the model has no stages or gives no gradients, as an exported file.
    """
    parts: Any = getattr(model, "stage_parts", None)
    if parts is None:
        raise ConvNextError(
            "An exported file cannot explain its answers, for it gives no gradients; give the checkpoint."
        )
    outputs: list[Tensor] = []
    hooks = [stage[-1].register_forward_hook(lambda module, given, output: outputs.append(output)) for stage in parts]
    try:
        with torch.enable_grad():
            logits = model(x.detach().requires_grad_())
            about = logits.argmax(1) if classes is None else classes
            score = logits.gather(1, about[:, None]).sum()  # the images do not know each other
            gradients = torch.autograd.grad(score, outputs)
    finally:
        for hook in hooks:
            hook.remove()
    axis = getattr(model, "channels_axis", 1)
    maps = [
        _scaled((gradient.relu() * output.detach()).float().sum(axis).relu())
        for output, gradient in zip(outputs, gradients, strict=True)
    ]
    return logits.detach(), maps, about


def _scaled(maps: Tensor) -> Tensor:
    """Maps (B, h, w) over their largest values."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-30)
