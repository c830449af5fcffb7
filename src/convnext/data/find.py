"""Find the image files that command-line patterns name, and name the results about them."""

import glob
from collections.abc import Sequence
from pathlib import Path

from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError, nearest

VIDEO_EXTENSIONS = frozenset(".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split())
"""Lower-case endings of the files that are taken for videos, where they are named or match a glob."""


def find_images(patterns: Sequence[str]) -> list[str]:
    """List the files in the order given; folders are walked, globs expanded.

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


def output_stems(files: Sequence[str], endings: Sequence[str] = ("",)) -> list[str]:
    """Name the results about each file, which are stem + each of `endings`: its own name without the ending, numbered where
    an earlier file's results have one of these names (a.jpg and a.png; a.jpg and a.colours.jpg).

    Names that differ in case only are numbered too, because many file systems take them for one. No number makes a
    name that another file's results have by itself.
    """

    def results(stem: str) -> set[str]:
        return {f"{stem}{ending}".casefold() for ending in endings}

    stems = [_stem(file) for file in files]
    own, taken = set().union(*map(results, stems)), set()
    numbers: dict[str, int] = {}
    for i, stem in enumerate(stems):
        if not taken.isdisjoint(results(stem)):
            number = numbers.get(stem.casefold(), 2)
            while any(name in taken or name in own for name in results(f"{stem}-{number}")):
                number += 1
            numbers[stem.casefold()] = number + 1
            stems[i] = f"{stem}-{number}"
        taken |= results(stems[i])
    return stems


def _stem(name: str) -> str:
    """The name of a file without its ending; of a video's frame (clip.mp4@0.040s) with its time: clip@0.040s."""
    file, mark, time = name.rpartition("@")
    if mark and Path(file).suffix.lower() in VIDEO_EXTENSIONS:
        return f"{Path(file).stem}@{time}"
    return Path(name).stem


def no_such_data(data: str) -> str:
    """A sentence that says which part of a path is not there, and the nearest of what is."""
    path = Path(data).expanduser().absolute()
    parent = next(folder for folder in path.parents if folder.is_dir())
    missing = path.relative_to(parent).parts[0]
    choices = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    here = parent == Path.cwd()
    choices += ["digits", "torchvision:CIFAR10"] * here
    where = "this folder" if here else parent
    return f"There is no data {data!r}: {where} has no {missing!r}.{nearest(missing, choices)}"
