"""Vectors of images with their names and labels: computed, and written as parquet.

Legend: N images, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL.Image import Image

from convnext.classification.dataset import ImageDataset, joined
from convnext.classification.open import open_parts
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.data.find import find_images
from convnext.data.formats import FORMATS
from convnext.data.images import decode
from convnext.data.loader import EvalSamples, default_workers, eval_loader
from convnext.errors import ConvNextError
from convnext.files import replace_table
from convnext.runtime.precision import autocast
from convnext.task.pooled import pooled

if TYPE_CHECKING:
    from convnext.trained import Trained


@dataclass
class Vectors:
    """Vectors of images.

    Attributes:
        names: of the N images.
        values: (N, C) float32.
        labels: class names of each image; None where images have no labels.
        unreadable: why images were left out, a sentence each.
    """

    names: list[str]
    values: np.ndarray
    labels: list[list[str]] | None
    unreadable: list[str]


class Files:
    """Image files without labels, as `data.loader.Samples`."""

    def __init__(self, files: list[str]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        return self.files[i]

    def image(self, i: int) -> Image:
        return decode(self.files[i])

    def target(self, i: int) -> int:
        return 0


def open_images(data: str, recipe: Any) -> ImageDataset | Files:
    """All images that `data` names: labelled ones as for `train`, or files, globs and folders of files without labels.

    Args:
        recipe: says how labelled data is read.
    """
    path = Path(data).expanduser()
    labelled = path.exists() and any(form.found(path) for form in FORMATS)
    if recipe.read.format is None and not labelled and (path.exists() or any(c in data for c in "*?[")):
        return Files(find_images([data]))
    train, val = open_parts(data, 0.0, recipe.seed, recipe.read)
    return joined(train, val) if len(val) else train


def embed(
    trained: Trained,
    images: ImageDataset | Files,
    stage: int | None = None,
    batch: int = 64,
    workers: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Vectors:
    """Vectors of images, each the map of a stage averaged over its positions; an unreadable image is left out and named.

    Args:
        stage: 0, 1, ..; the last if None.
        workers: processes that load images; as in training if None.

    Raises:
        ConvNextError: the model is no classifier, or an exported file; there is no such stage.
    """
    loaded, precision = trained.deployed()
    if not isinstance(loaded.preprocess, Preprocess):
        raise ConvNextError(f"{trained.name} is a {trained.spec.noun}; vectors are taken from classifiers.")
    device = trained.device
    workers = default_workers(device, 1) if workers is None else workers
    samples = EvalSamples(Unlabelled(images), eval_transform(loaded.preprocess))
    rows, kept, unreadable = [], [], []
    with torch.inference_mode(), autocast(precision, device):
        for group in eval_loader(samples, batch, workers, device.type == "cuda"):
            unreadable += group.unreadable
            readable = [i for i, good in zip(group.indices, group.targets.tolist(), strict=True) if good]
            if readable:
                rows.append(pooled(loaded.module, group.images.to(device), stage).cpu().numpy())
            kept += readable
            progress(len(kept) + len(unreadable), len(images))
    values = np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
    labels = [images.label_names(i) for i in kept] if isinstance(images, ImageDataset) else None
    return Vectors([images.name(i) for i in kept], values, labels, unreadable)


@dataclass
class Unlabelled:
    """Images whose target is 1, which the loader leaves 0 for an unreadable one."""

    images: ImageDataset | Files

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        return self.images.name(i)

    def image(self, i: int) -> Image:
        return self.images.image(i)

    def target(self, i: int) -> int:
        return 1


def write_vectors(
    vectors: Vectors, path: Path, precision: Literal["float32", "float16"], facts: dict[str, str]
) -> None:
    """Write columns `file`, `labels` (a list of names, if there are labels) and `vector` (a list of C numbers).

    Args:
        facts: model and stage, kept as the file's metadata.
    """
    values = vectors.values.astype(precision)
    kind = pa.list_(pa.from_numpy_dtype(values.dtype), values.shape[1])
    columns: dict[str, Any] = {"file": pa.array(vectors.names, pa.string())}
    if vectors.labels is not None:
        columns["labels"] = pa.array(vectors.labels, pa.list_(pa.string()))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
    table = pa.table(columns).replace_schema_metadata(facts)
    replace_table(path, table)
