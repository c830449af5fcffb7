"""From what a person types for pictures to files."""

import glob
from collections.abc import Sequence
from pathlib import Path

from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError


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


def output_stems(files: Sequence[str]) -> list[str]:
    """A name for what is written about each file: its own without the ending, numbered where two would be the same."""
    seen: dict[str, int] = {}
    stems = []
    for file in files:
        stem = Path(file).stem
        seen[stem] = seen.get(stem, 0) + 1
        stems.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return stems
