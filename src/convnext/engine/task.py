"""The interface of a task to the engine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Task(Protocol):
    """The interface of a task to the engine: model, data, losses, evaluation and the writing of weights."""

    model: nn.Module
    metric: str  # the evaluation metric by which the best weights are chosen; higher is better, but for "loss"
    fingerprint: str  # of the training data: a resumed run must see the same

    @property
    def validates(self) -> bool:
        """True if there is something to evaluate on; without, the last weights are the best."""
        ...

    def batches(self, start: int) -> Iterator:
        """Micro-batches on the device from optimizer step `start` to the end of the run."""
        ...

    def mix(self, batch):
        """A micro-batch after all that the host draws at random for it, such as Mixup; called once, with seeded generators."""
        ...

    def losses(self, model: nn.Module, batch) -> dict[str, Tensor]:
        """The mean training losses of a micro-batch by name, 0-d each; their sum is minimised. `model` is the task's model
        or a wrapper of it. What is random here is drawn on the device."""
        ...

    def sample_names(self, batch) -> list[str]:
        """Names of a micro-batch's samples, for the record of a non-finite step."""
        ...

    def evaluate(self, models: dict[str, nn.Module], interrupted: Callable[[], bool]) -> dict[str, dict[str, float]]:
        """Metrics of each model over the validation set, the same on every process. Raises `Interrupted` if
        `interrupted()` is true, which every process calls equally often."""
        ...

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        """Write a file that suffices for evaluation and prediction; `facts` go into its metadata."""
        ...
