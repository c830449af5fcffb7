"""How the paper did it, as plain literals: recipes by name."""

from convnext.errors import ConvNextError, nearest
from convnext.recipes.schema import Recipe

_registered: dict[str, Recipe] = {}


def register(name: str, recipe: Recipe) -> None:
    """Add a named recipe for the rest of this process, or replace one that was added before.

    Raises:
        ConvNextError: the package has a recipe of this name.
    """
    if name in _built_in():
        raise ConvNextError(f"The package has a recipe {name!r} already; register yours under another name.")
    _registered[name] = recipe


def recipes() -> dict[str, Recipe]:
    """All recipes by name: the package's, then the registered ones."""
    return _built_in() | _registered


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


def _built_in() -> dict[str, Recipe]:
    from convnext.recipes import ablations, ade20k, coco, roadmap, small, table5, table6

    found: dict[str, Recipe] = {}
    for module in (small, table5, table6, roadmap, ablations, coco, ade20k):
        found |= module.RECIPES
    return found
