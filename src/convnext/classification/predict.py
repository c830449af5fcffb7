"""Class probabilities of pictures from anywhere: files, folders, globs, or decoded images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from PIL.Image import Image

from convnext.classification.load import Classifier
from convnext.classification.transforms import eval_transform
from convnext.data.images import ImageError, decode
from convnext.runtime.precision import autocast


@dataclass(frozen=True)
class Prediction:
    """`top`: (class index, probability) of the likeliest classes, best first; or the `error` that kept it from being read."""

    path: str
    top: tuple[tuple[int, float], ...] = ()
    error: str | None = None


def predict(
    classifier: Classifier,
    images: Iterable[str | Image],
    top_k: int = 5,
    batch: int = 32,
    precision: str = "fp32",
) -> Iterator[Prediction]:
    """Yield one `Prediction` per picture, in order; one that cannot be read yields its error instead of ending the rest."""
    transform = eval_transform(classifier.preprocess)
    device = next(classifier.model.parameters()).device
    top_k = min(top_k, len(classifier.classes))
    remaining = iter(images)
    while group := list(islice(remaining, batch)):
        results: list[Prediction | None] = []
        tensors = []
        for image in group:
            path = image if isinstance(image, str) else "image"
            try:
                tensors.append(transform(decode(image) if isinstance(image, str) else image))
                results.append(None)
            except ImageError as error:
                results.append(Prediction(path, error=str(error)))
        rows: Iterator = iter(())
        if tensors:
            with torch.inference_mode(), autocast(precision, device):
                logits = classifier.model(torch.stack(tensors).to(device)).float()
            probabilities, indices = logits.softmax(1).topk(top_k)  # (B, k)
            rows = iter(
                [tuple(zip(i, p, strict=True)) for i, p in zip(indices.tolist(), probabilities.tolist(), strict=True)]
            )
        for image, result in zip(group, results, strict=True):
            yield result or Prediction(image if isinstance(image, str) else "image", next(rows))
