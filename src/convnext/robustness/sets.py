"""The released robustness sets of ImageNet as folders: their layouts, their class lists, and what is evaluated of them.

- ImageNet-A, -R: `WNID/*.jpg` of 200 classes each, which alone count: the logits of all others are left out.
- ImageNet-Sketch: `WNID/*.JPEG` of all 1,000 classes.
- ImageNet-C: `CORRUPTION/SEVERITY/WNID/*.JPEG`; its archives unpack into noise/, blur/, weather/, digital/ and extra/.
- ImageNet-C-bar: the same without those; its own generator names the severities by numbers such as 2.35.

A folder that holds nothing but one of these (`sketch/`, `imagenet-a/`) is as good.
"""

import os
import pkgutil
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from convnext.classification.dataset import ImageDataset
from convnext.classification.folder import FolderDataset
from convnext.classification.open import open_for_evaluation
from convnext.data.corruptions import IMAGENET_C, IMAGENET_C_BAR, IMAGENET_C_EXTRA, SEVERITIES
from convnext.errors import ConvNextError
from convnext.robustness.metrics import missing
from convnext.robustness.units import Unit
from convnext.robustness.write import MARKER

TITLES = {
    "clean": "ImageNet's validation images",
    "imagenet-a": "ImageNet-A",
    "imagenet-r": "ImageNet-R",
    "imagenet-sketch": "ImageNet-Sketch",
    "imagenet-c": "ImageNet-C",
    "imagenet-c-bar": "ImageNet-C-bar",
}
MEAN_OVER = {"imagenet-c": IMAGENET_C, "imagenet-c-bar": IMAGENET_C_BAR}
EXTRA = {"imagenet-c": IMAGENET_C_EXTRA, "imagenet-c-bar": ()}
"""Evaluated where they are there, but in no mean."""


@cache
def wnids(part: str) -> tuple[str, ...]:
    """The wordnet ids of a set's classes, sorted, as timm has them: 200 of ImageNet-A and of -R, else all 1,000."""
    name = part.replace("-", "_") if part in ("imagenet-a", "imagenet-r") else "imagenet"
    content = pkgutil.get_data("timm.data", f"_info/{name}_synsets.txt")
    assert content is not None, "timm no longer has its class lists there"
    return tuple(content.decode().split())


def released_units(part: str, folder: Path) -> list[Unit]:
    """List the units of a released set that can be evaluated: one unit, or one per corruption and severity that is there.

    Args:
        part: a key of `TITLES`.

    Raises:
        ConvNextError: there is no such folder, it is not laid out like this set, or `write_corrupted` has written it.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ConvNextError(f"There is no folder {folder} for {TITLES[part]}. Give the folder that its archive made.")
    classes = wnids(part)
    if part == "clean":
        # through the face of all data, as it comes in more layouts than these; only its validation part is opened
        return [
            Unit(part, None, None, lambda: open_for_evaluation(str(folder), list(classes), 0.1, 0), classes, "image")
        ]
    if part not in MEAN_OVER:
        return [Unit(part, None, None, _opener(part, folder), classes, "image")]
    if (folder / MARKER).exists():
        raise ConvNextError(
            f"{folder} was written by `convnext data corrupt`: it is not the released {TITLES[part]}, and its numbers do "
            "not compare with published ones. Evaluate the original images with --corrupt instead."
        )
    places = {path.name: path for path in [*folder.glob("*/*"), *folder.glob("*")] if path.is_dir()}
    units = [
        Unit(part, name, severity, _opener(part, folder), classes, "crop")
        for name in (*MEAN_OVER[part], *EXTRA[part])
        if name in places
        for severity, folder in severity_folders(places[name]).items()
    ]
    if not units:
        there = ", ".join(sorted(path.name for path in folder.glob("*"))[:5]) or "nothing"
        raise ConvNextError(
            f"{folder} has no corruption of {TITLES[part]}: it must hold CORRUPTION/SEVERITY/WNID/*.JPEG, such as "
            f"{MEAN_OVER[part][0]}/1/n01440764/, and it holds {there}."
        )
    return units


def severity_folders(corruption: Path) -> dict[int, Path]:
    """Severities 1 to 5 that are there, with their folders: `1` to `5`, or five numbers with two digits after the point, as
    ImageNet-C-bar's own generator names them (`2.35`), in rising order.

    Raises:
        ConvNextError: there are such numbers, but not five, so that nobody knows which is which severity.
    """
    plain = {s: corruption / str(s) for s in SEVERITIES if (corruption / str(s)).is_dir()}
    exact = sorted(
        (float(p.name), p) for p in corruption.iterdir() if re.fullmatch(r"\d+\.\d\d", p.name) and p.is_dir()
    )
    if plain or not exact:
        return plain
    if len(exact) != len(SEVERITIES):
        raise ConvNextError(
            f"{corruption} has {len(exact)} severities, {', '.join(path.name for _, path in exact)}; ImageNet-C-bar's "
            f"generator makes {len(SEVERITIES)}, from weak to strong. Make the others too, or name these 1 to 5."
        )
    return dict(zip(SEVERITIES, (path for _, path in exact), strict=True))


def gaps(units: list[Unit]) -> list[str]:
    """A sentence for each corrupted set of which something that its mean is over is not there."""
    sentences = []
    for part, needed in MEAN_OVER.items():
        there: dict[str, dict[int, float]] = {}
        for unit in units:
            if unit.set == part and unit.corruption is not None and unit.severity is not None:
                there.setdefault(unit.corruption, {})[unit.severity] = 0.0
        if there and (lacking := missing(there, needed)):
            sentences.append(f"{TITLES[part]} is not complete, so there will be no mean: {', '.join(lacking)} missing.")
    return sentences


def _opener(part: str, folder: Path) -> Callable[[], ImageDataset]:
    """Opens class folders named by wordnet ids, with labels that count in the set's classes; checks their names now.

    Raises:
        ConvNextError: a class folder that the released set does not have.
    """
    classes = wnids(part)
    names = _folders(folder)
    if len(names) == 1 and names[0] not in classes:
        folder, names = folder / names[0], _folders(folder / names[0])
    if strange := [name for name in names if name not in classes]:
        raise ConvNextError(
            f"{folder} has {len(strange)} folders that are none of the {len(classes)} classes of {TITLES[part]}, such as "
            f"{strange[0]!r}. Its class folders are wordnet ids, such as {classes[0]!r}: give the released set, unchanged."
        )
    return partial(FolderDataset, folder, "", list(classes))


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
