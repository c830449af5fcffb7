"""A folder per class, in train/ and val/ or on its own: recognising it, and its images for other formats."""

import os
from pathlib import Path

from convnext.data.images import IMAGE_EXTENSIONS


def is_class_folders(root: Path) -> bool:
    """True if two folders or more, of `root` or of its train/, hold images or folders of images; going by names."""
    start = root / "train" if (root / "train").is_dir() else root
    return sum(_holds_image(folder) for folder in _folders(start)) > 1


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def _holds_image(folder: Path) -> bool:
    for _, _, files in os.walk(folder, followlinks=True):
        if any(os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS for name in files):
            return True
    return False
