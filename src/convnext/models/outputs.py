"""The layers of a model whose size is the number of classes, and what a backbone has in place of a classifier's end."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class OutputLayers:
    """The `output_layers` that a model class publishes. All but `besides` are regular expressions of tensor names.

    Attributes:
        layers: the tensors to initialise anew where the number of classes differs; matched at the name's beginning.
        counted: the tensors whose first side is the number of classes; the whole name.
        besides: outputs of `counted` that are no classes, such as the background.
        classifier_only: tensors of a classifier that a model without `counted` leaves out.
        backbone_only: tensors of a model without `counted` that a classifier lacks; they stay freshly initialised.
    """

    layers: str
    counted: str
    besides: int = 0
    classifier_only: str | None = None
    backbone_only: str | None = None

    def names(self, tensors: Iterable[str]) -> list[str]:
        """Names of the tensors that depend on the number of classes."""
        return matching(self.layers, tensors)

    def num_classes(self, tensors: Mapping[str, Tensor]) -> int | None:
        """The number of classes of these tensors; None without such layers."""
        counted = next((tensor for name, tensor in tensors.items() if re.fullmatch(self.counted, name)), None)
        return None if counted is None or not counted.ndim else counted.shape[0] - self.besides


def matching(pattern: str | None, names: Iterable[str]) -> list[str]:
    """The names that begin with the pattern; none without a pattern."""
    return [name for name in names if pattern and re.match(pattern, name)]


CLASSIFIER = OutputLayers(r"head\.", r"head\.weight", classifier_only=r"(norm|head)\.", backbone_only=r"norm\d\.")
