"""How the paper did it, as plain literals: recipes by name."""

from convnext.errors import ConvNextError, nearest
from convnext.recipes.schema import Recipe


def recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    from convnext.recipes import ade20k, coco, roadmap, small, table5, table6

    return small.RECIPES | table5.RECIPES | table6.RECIPES | roadmap.RECIPES | coco.RECIPES | ade20k.RECIPES


def get(name: str) -> Recipe:
    """The named recipe.

    Raises:
        ConvNextError: no such recipe; the message has the nearest names.
    """
    known = recipes()
    if name not in known:
        raise ConvNextError(
            f"There is no recipe {name!r}.{nearest(name, known)} `convnext info recipes` lists all {len(known)}."
        )
    return known[name]
