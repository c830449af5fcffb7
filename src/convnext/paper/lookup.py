"""The models' names, and finding the row of a table."""

from typing import Any, Literal

from convnext.errors import ConvNextError, nearest

Pretrain = Literal["1k", "22k"]

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


def find(rows, **wanted: Any):
    """The one row whose fields are `wanted`; the first field is the row's name."""
    key, name = next(iter(wanted.items()))
    wanted[key] = name = str(NAMES.get(name, name))
    for row in rows:
        if all(getattr(row, field) == value for field, value in wanted.items()):
            return row
    kind = type(rows[0]).__name__.lower()
    namesakes = [_spell({field: getattr(row, field) for field in wanted}) for row in rows if getattr(row, key) == name]
    if namesakes:
        hint = f" It has: {'; '.join(namesakes)}."
    else:
        hint = nearest(name, dict.fromkeys(getattr(row, key) for row in rows))
    raise ConvNextError(f"The paper has no {kind} row with {_spell(wanted)}.{hint}")


def _spell(fields: dict) -> str:
    return ", ".join(f"{field} {value!r}" for field, value in fields.items())
