"""Results that people and programs read: a prediction for one image, the evaluation of a model, the tables of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext.files import replace_text, to_json
from convnext.layout import Table

SHOWN = 50
"""Classes in a table of the worst."""
LARGE = 10_000
"""Images from which an accuracy is printed without its confidence interval."""

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from convnext.task.inputs import Input
    from convnext.task.masks import MaskForm


@dataclass(repr=False)
class Prediction(ABC):
    """The answer for one image; `source` is the image, which `draw` decodes again when it is asked for.

    Attributes:
        files: endings of the files that `save` writes.
    """

    source: Input
    files = (".jpg",)

    @property
    def name(self) -> str:
        """Path of the image, or "image" for one from memory."""
        return self.source.name

    @abstractmethod
    def summary(self) -> list[tuple[str, ...]]:
        """Cells for the terminal, one tuple a line."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON values: file and answer."""

    def dict_with_masks(self, form: MaskForm) -> dict[str, Any]:
        """`to_dict`, where the answer has regions with these as "rle" or "png", or without them for "none"."""
        return self.to_dict()

    def arrays(self) -> dict[str, np.ndarray]:
        """The answer as arrays whose shape is the same for every image; empty where there are none."""
        return {}

    @abstractmethod
    def draw(self) -> Image:
        """The image with the answer on it."""

    def save(self, folder: Path, stem: str) -> list[Path]:
        """Write the drawn image to `folder` as stem + each of `files`."""
        path = folder / f"{stem}.jpg"
        self.draw().convert("RGB").save(path, quality=92)
        return [path]

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.draw().save(stream, "PNG")
        return stream.getvalue()

    def __str__(self) -> str:
        return "\n".join("  ".join((self.name, *cells)) for cells in self.summary())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name}: {', '.join(' '.join(cells) for cells in self.summary())}>"


@dataclass
class Failure:
    """An image for which there is no answer, and why."""

    source: Input
    error: str

    @property
    def name(self) -> str:
        """Path of the image, or "image" for one from memory."""
        return self.source.name

    def to_dict(self) -> dict[str, Any]:
        """JSON values: file and error."""
        return {"file": self.name, "error": self.error}


@dataclass(repr=False)
class Evaluation:
    """The evaluation of one model, possibly with several sets of weights, on labelled images.

    Attributes:
        data: where the images are from, in words.
        images: how many were evaluated; `trained_on` how many of them the model was trained on, None where unknown.
        metrics: weights ("best", "raw", "ema") -> metric -> value; percent where it is a share.
        primary: the metric that "best" is about.
        precision: fp32, bf16 or fp16 of the arithmetic.
        tables: for people.
        details: further JSON values of `evaluation.json`, such as the metrics of each class.
        files: name -> a function that writes the file, such as a figure.
        if_held_out: a sentence that belongs to the tables where the images are those that the training held out.
        part: of the model's own data: "val", "train" or "all"; None of other data.
    """

    data: str
    images: int
    metrics: dict[str, dict[str, float]]
    primary: str
    precision: str
    tables: list[Table]
    details: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    trained_on: int | None = None
    if_held_out: str = ""
    part: str | None = None

    @property
    def note(self) -> str:
        """A sentence about the numbers; empty without one."""
        return self.if_held_out if self.part in ("val", "all") else ""

    def __getitem__(self, metric: str) -> float:
        """The metric of the weights that are in use, the first."""
        return next(iter(self.metrics.values()))[metric]

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON has them."""
        facts = {"data": self.data, "images": self.images, "trained_on": self.trained_on, "precision": self.precision}
        facts |= {"note": self.note} if self.note else {}
        parts = {"results": self.metrics, **self.details}
        return facts | {key: _apart(value) if isinstance(value, dict) else value for key, value in parts.items()}

    def save(self, folder: str | Path) -> Path:
        """Write `evaluation.json` and the figures to a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "evaluation.json", to_json(self.to_dict(), indent=1) + "\n")
        for name, write in self.files.items():
            write(folder / name)
        return folder

    def __str__(self) -> str:
        return "\n\n".join(filter(None, (*map(str, self.tables), self.note)))

    def __repr__(self) -> str:
        return f"<Evaluation: {self.primary} {self[self.primary]:.4g} on {self.images:,} images of {self.data}, {self.precision}>"


def _apart(by_weights: dict[str, Any]) -> dict[str, Any]:
    """Values by the name of the weights, where "best = raw" stands for two names of the same."""
    return {name: value for key, value in by_weights.items() for name in key.split(" = ")}


def worst_first(which: str, shown: int, seen: int) -> str:
    """Title of a table of classes."""
    return f"per class ({which}), worst first" + (f", {shown} of {seen}" if shown < seen else "")


def wilson(percent: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval, in percent, of a share measured on so many images."""
    share, z = percent / 100, 1.959964
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z * (share * (1 - share) / images + (z / (2 * images)) ** 2) ** 0.5 / (1 + z * z / images)
    return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)


def interval(percent: float, images: int) -> str:
    """The confidence interval in words; nothing for `LARGE` sets, where it is narrow."""
    return "{:.1f} to {:.1f}".format(*wilson(percent, images)) if 0 < images < LARGE else ""
