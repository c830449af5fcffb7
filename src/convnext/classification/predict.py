"""Class probabilities of pictures from anywhere: files, folders, globs, or decoded images."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL.Image import Image

from convnext.classification.load import Classifier
from convnext.data.images import IMAGE_EXTENSIONS, ImageError, decode
from convnext.data.transforms import eval_transform
from convnext.errors import ConvNextError
from convnext.train.step import autocast


@dataclass(frozen=True)
class Prediction:
    """`top`: (class index, probability) of the likeliest classes, best first; or the `error` that kept it from being read."""

    path: str
    top: tuple[tuple[int, float], ...] = ()
    error: str | None = None


def find_images(patterns: Sequence[str]) -> list[str]:
    """Files in the order given; folders are walked, globs expanded.

    Raises:
        ConvNextError: a pattern matches nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS and p.is_file())
        elif path.exists():
            matches = [pattern]
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            kind = "no images in it" if path.is_dir() else "nothing there"
            raise ConvNextError(
                f"{pattern!r}: {kind}. Give image files, folders of images, or globs such as 'photos/*.jpg'."
            )
        found += matches
    return found


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
