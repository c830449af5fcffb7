"""How data is read: options for what cannot be found out by looking at it."""

from dataclasses import dataclass

from convnext.recipes.ranges import STRICT


@dataclass(frozen=True)
class Reading:
    """The defaults find out by themselves; what they found is said before a run."""

    __pydantic_config__ = STRICT

    format: str | None = None
    """Format of the data, if it is not the one that is found (docs/own-data.md lists them)."""
    images: str | None = None
    """Folder to which the paths in a table are relative, if it is not the table's own."""
    file_column: str | None = None
    """Column of a table that has the image files; of a table without a header, its number from 1."""
    label_columns: tuple[str, ...] = ()
    """Column of the labels; or several, one for each class, of 0 and 1."""
    split_column: str | None = None
    """Column that says train, val or test."""
    separator: str | None = None
    """Separator between the labels of one image; given, images have any number of labels."""


FOUND = Reading()
"""Everything found out by looking."""
