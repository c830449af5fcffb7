"""Units: images that are evaluated together, and their result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from convnext.classification.dataset import ImageDataset

View = Literal["image", "crop", "input"]


@dataclass(frozen=True)
class Place:
    """A whole set, or one corruption at one severity of it.

    Attributes:
        set: `clean`, `imagenet-a`, `imagenet-r`, `imagenet-sketch`, `imagenet-c`, `imagenet-c-bar` or `generated`.
        corruption, severity: None for a whole set; of `generated`, that is the images as they are.
    """

    set: str
    corruption: str | None
    severity: int | None

    @property
    def key(self) -> str:
        return "/".join(str(part) for part in (self.set, self.corruption, self.severity) if part is not None)


@dataclass(frozen=True)
class Unit(Place):
    """A place to be evaluated.

    Attributes:
        open: opens the images when it is the unit's turn; their labels count in `classes`.
        classes: the only ones that the model may answer.
        view: how the model sees the images, see `Subject.transform`.
        seed: of generated corruptions; jpeg: quality of the JPEG that they went through, None for none.
    """

    open: Callable[[], ImageDataset]
    classes: tuple[str, ...]
    view: View
    seed: int | None = None
    jpeg: int | None = None


@dataclass(frozen=True)
class Record(Place):
    """An evaluated place: how many images, how many of them right, and `data` that tells whether they are the same."""

    images: int
    correct: int
    data: dict

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.images

    @property
    def error(self) -> float:
        """Percent."""
        return 100 * (self.images - self.correct) / self.images
