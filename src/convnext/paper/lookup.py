"""Names of the models in the paper, and the row of a table by its fields."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

from convnext.errors import ConvNextError, nearest

Pretrain = Literal["1k", "22k"]
Row = TypeVar("Row")

NAMES = {
    "convnext_tiny": "ConvNeXt-T",
    "convnext_small": "ConvNeXt-S",
    "convnext_base": "ConvNeXt-B",
    "convnext_large": "ConvNeXt-L",
    "convnext_xlarge": "ConvNeXt-XL",
    "convnext_isotropic_small": "ConvNeXt-S (iso.)",
    "convnext_isotropic_base": "ConvNeXt-B (iso.)",
    "convnext_isotropic_large": "ConvNeXt-L (iso.)",
}
"""Our name of a model -> the paper's; the lookups take either."""


def lookup(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """The first row of a table whose fields have these values, or None.

    A row's name (its first field) may be given as ours: "convnext_tiny" finds "ConvNeXt-T".
    """
    wanted = {field: NAMES.get(value, value) if isinstance(value, str) else value for field, value in wanted.items()}
    return next((row for row in rows if all(getattr(row, f) == value for f, value in wanted.items())), None)


def find(rows: Sequence[Row], **wanted: Any) -> Row:
    """The row that `lookup` finds.

    Args:
        wanted: the row's name first, then other fields.

    Raises:
        ConvNextError: there is none; with the rows of this name, or the nearest name.
    """
    if (found := lookup(rows, **wanted)) is not None:
        return found
    key, name = next(iter(wanted.items()))
    wanted[key] = name = str(NAMES.get(name, name))
    kind = type(rows[0]).__name__.lower()
    namesakes = [_spell({field: getattr(row, field) for field in wanted}) for row in rows if getattr(row, key) == name]
    if namesakes:
        hint = f" It has: {'; '.join(namesakes)}."
    else:
        hint = nearest(name, dict.fromkeys(getattr(row, key) for row in rows))
    raise ConvNextError(f"The paper has no {kind} row with {_spell(wanted)}.{hint}")


def _spell(fields: dict) -> str:
    return ", ".join(f"{field} {value!r}" for field, value in fields.items())
