"""The loop that all evaluations share: models in evaluation mode, interruption, one error for all processes."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import nn

from convnext.errors import ConvNextError
from convnext.runtime.interruption import Interrupted
from convnext.runtime.world import World

Batch = TypeVar("Batch")


def evaluate_batches(
    models: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    step: Callable[[Batch], int],
    world: World,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Call `step` for each batch of this process, with the models in evaluation mode; their modes are restored.

    Args:
        batches: equally many on every process; `step` must take the empty ones.
        step: evaluates one batch and returns its number of images.
        interrupted: asked before each batch.
        progress: called with the number of this process's images after each batch that has any.

    Raises:
        Interrupted: `interrupted()` returned True.
        ConvNextError: `step` raised it on some process; all processes raise the error of the lowest rank.
    """
    done, modes = 0, {label: model.training for label, model in models.items()}
    try:
        for model in models.values():
            model.eval()
        for batch in batches:
            if interrupted():
                raise Interrupted
            count, error = 0, None
            try:
                count = step(batch)
            except ConvNextError as failure:
                error = failure
            world.raise_first(error)
            done += count
            if count:
                progress(done)
    finally:
        for label, model in models.items():
            model.train(modes[label])
