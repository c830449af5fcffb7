"""Find the image files that command-line patterns name, and name the results about them."""

import glob
from collections.abc import Sequence
from pathlib import Path

from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError, nearest


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


def output_stems(files: Sequence[str]) -> list[str]:
    """Name the results about each file: its own name without the ending, numbered where an earlier file has that name.

    Names that differ in case only are numbered too, because many file systems take them for one. No number makes a
    name that another file has by itself.
    """
    stems = [Path(file).stem for file in files]
    own = {stem.casefold() for stem in stems}
    numbers: dict[str, int] = {}
    for i, stem in enumerate(stems):
        key = stem.casefold()
        if key in numbers:
            while (name := f"{stem}-{numbers[key]}").casefold() in own:
                numbers[key] += 1
            stems[i] = name
        numbers[key] = numbers.get(key, 1) + 1
    return stems


def no_such_data(data: str) -> str:
    """A sentence that says which part of a path is not there, and the nearest of what is."""
    path = Path(data).expanduser().absolute()
    parent = next(folder for folder in path.parents if folder.is_dir())
    missing = path.relative_to(parent).parts[0]
    choices = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    if parent == Path.cwd():
        choices += ["digits", "torchvision:CIFAR10"]
    return f"There is no data {data!r}: {parent} has no {missing!r}.{nearest(missing, choices)}"
