"""Corruptions made on the fly: which ones, and a dataset whose images are corrupted as the model would see them.

ImageNet-C was made of images resized and cropped to 224 px; here it is the model's own input size, so the same
severity means the same strength for the model. That alone keeps these numbers apart from the released sets'.
"""

from collections.abc import Callable, Sequence

from PIL import Image

from convnext.classification.dataset import ImageDataset
from convnext.data.corruptions import ALL, IMAGENET_C, IMAGENET_C_BAR, IMAGENET_C_EXTRA, SEVERITIES, corrupt
from convnext.data.corruptions.pixels import through_jpeg
from convnext.errors import ConvNextError, nearest
from convnext.robustness.subject import Subject
from convnext.robustness.units import Unit

GROUPS = {"c": IMAGENET_C, "c-extra": IMAGENET_C_EXTRA, "c-bar": IMAGENET_C_BAR, "all": ALL}


def choose(corruptions: Sequence[str], severities: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and groups of names as names, and severities, each once.

    Raises:
        ConvNextError: an unknown name, a severity outside 1 to 5, or none at all.
    """
    names = dict.fromkeys(name for word in corruptions for name in GROUPS.get(word, (word,)))
    for name in names:
        if name not in ALL:
            raise ConvNextError(
                f"There is no corruption {name!r}.{nearest(name, [*ALL, *GROUPS])} There are the groups "
                f"{', '.join(GROUPS)}, and: {', '.join(ALL)}."
            )
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not names or not severities:
        given = f"severity {wrong[0]}" if wrong else "no corruption or no severity"
        raise ConvNextError(
            f"Given is {given}; give one corruption or more, at severities from 1 (weak) to 5 (strong)."
        )
    return tuple(names), tuple(sorted(set(severities)))


class Corrupted(ImageDataset):
    """The images of a dataset, resized and cropped, then corrupted as a function of (seed, name of the image), and taken
    through a JPEG of quality `jpeg`, as the released sets are."""

    def __init__(
        self,
        images: ImageDataset,
        resize_crop: Callable[[Image.Image], Image.Image],
        corruption: str,
        severity: int,
        seed: int,
        jpeg: int | None = None,
    ):
        self._images, self._resize_crop = images, resize_crop
        self._corruption, self._severity, self._seed, self._jpeg = corruption, severity, seed, jpeg
        self.labels, self.classes = images.labels, images.classes

    def name(self, i: int) -> str:
        return self._images.name(i)

    def source(self, i: int) -> Image.Image:
        view = self._resize_crop(self._images.image(i))
        corrupted = corrupt(view, self._corruption, self._severity, self._seed, self.name(i))
        return corrupted if self._jpeg is None else through_jpeg(corrupted, self._jpeg)


def generated_units(
    images: ImageDataset,
    subject: Subject,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
    jpeg: int | None = None,
) -> list[Unit]:
    """The images as they are, then every corruption at every severity.

    Args:
        images: labelled for the model; of its own data, the part that it was not trained on.
        corruptions, severities: from `choose`.
        jpeg: quality of the JPEG between corruption and model; None for none.
    """
    classes = tuple(images.classes)
    return [
        Unit("generated", None, None, lambda: images, classes, "image"),
        *(
            Unit(
                "generated",
                name,
                severity,
                lambda name=name, severity=severity: Corrupted(images, subject.resize_crop, name, severity, seed, jpeg),
                classes,
                "input",
                seed,
                jpeg,
            )
            for name in corruptions
            for severity in severities
        ),
    ]
