"""Parts of a model that a run leaves as they are."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from convnext.errors import ConvNextError, nearest


def freeze(model: nn.Module, words: Sequence[str]) -> list[nn.Module]:
    """Take the named parts out of training: their parameters get no gradients.

    Args:
        words: `backbone`, which is all but the output layers, or `stages` and numbers of stages, the first with the stem; empty
            for nothing. The model publishes `output_layers` and `stage_parts`, itself or as its `backbone`.

    Returns:
        The frozen modules. They have to be in evaluation mode in training, too: no drop-path, no new statistics.

    Raises:
        ConvNextError: other words, or stages that the model does not have.
    """
    if not words:
        return []
    kind, *numbers = words
    if kind == "backbone" and not numbers:
        parts = _all_but_outputs(model)
    elif kind == "stages" and numbers:
        parts = _stages(getattr(model, "backbone", model), numbers)
    else:
        hint = nearest(kind, ["backbone", "stages"]) if kind not in ("backbone", "stages") else ""
        raise ConvNextError(f"--freeze {' '.join(words)} is unknown.{hint} Give `backbone`, or `stages 0 1`.")
    for part in parts:
        part.requires_grad_(False)
    return parts


def _all_but_outputs(model: Any) -> list[nn.Module]:
    if isinstance(backbone := getattr(model, "backbone", None), nn.Module):
        return [backbone]
    layers = getattr(model, "output_layers", None)
    names = set(layers.names(name for name, _ in model.named_parameters())) if layers else set()
    parts = [
        child
        for prefix, child in model.named_children()
        if not any(f"{prefix}.{name}" in names for name, _ in child.named_parameters())
    ]
    if not names or not parts:
        raise ConvNextError(f"{type(model).__name__} does not say which layers are its outputs: leave --freeze out.")
    return parts


def _stages(backbone: Any, numbers: Sequence[str]) -> list[nn.Module]:
    stages = getattr(backbone, "stage_parts", [])
    known = [str(i) for i in range(len(stages))]
    if wrong := [number for number in numbers if number not in known]:
        there = f"its stages are {', '.join(known)}" if known else "it has no stages"
        raise ConvNextError(f"--freeze stages {' '.join(numbers)}: there is no stage {wrong[0]}; {there}.")
    return [part for number in numbers for part in stages[int(number)]]
