"""Two recipes side by side: which fields differ."""

from collections.abc import Mapping
from dataclasses import asdict

from convnext.recipes.schema import Recipe

Difference = tuple[str, object, object]
"""A field, and its values in two recipes."""


def flatten(recipe: Recipe) -> dict[str, object]:
    """{"epochs": 300, "optim.lr": 0.004, ..}: every field under the name it has on the command line."""
    flat = {}
    for name, value in asdict(recipe).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat


def difference(one: Recipe, other: Recipe) -> list[Difference]:
    """(field, value in `one`, value in `other`) for every field that differs."""
    a, b = ({"task": recipe.task, **flatten(recipe)} for recipe in (one, other))
    return [(name, a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)]


PRINTED = ("table5/", "table6/", "coco/", "ade20k/")
"""Beginnings of the names of the paper's own settings; the roadmap and the ablations are steps on the way to them."""
NOT_A_SETTING = ("runtime.", "source", "data", "val", "read.", "published_precision", "device_batch", "track")
"""Fields, and beginnings of their names, that say where and on what a run computes: no setting of the paper's."""


def from_paper(name: str, recipe: Recipe, known: Mapping[str, Recipe]) -> tuple[str, list[Difference]] | None:
    """The paper's recipe of the same task that is nearest to another one, and (field, its value, the other's) where they differ.

    Nearest is the same model, then the same kind of start (random or trained weights), then the fewest other settings.

    Args:
        name: of the recipe.
        known: all recipes by name.

    Returns:
        None where `name` is one of the paper's itself, or the paper has none of this task.
    """
    if name.startswith(PRINTED):
        return None

    def settings(other: Recipe) -> list[Difference]:
        return [each for each in difference(other, recipe) if not each[0].startswith(NOT_A_SETTING)]

    def distance(other: Recipe) -> tuple[bool, bool, int]:
        starts = bool(other.model.weights) != bool(recipe.model.weights)
        return other.model.name != recipe.model.name, starts, len(settings(other))

    printed = {key: r for key, r in known.items() if key.startswith(PRINTED) and r.task == recipe.task}
    if not printed:
        return None
    nearest = min(printed, key=lambda key: distance(printed[key]))
    return nearest, settings(printed[nearest])
