"""Two recipes side by side: which fields differ."""

from dataclasses import asdict

from convnext.recipes.schema import Recipe


def flatten(recipe: Recipe) -> dict[str, object]:
    """{"epochs": 300, "optim.lr": 0.004, ..}: every field under the name it has on the command line."""
    flat = {}
    for name, value in asdict(recipe).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat


def difference(one: Recipe, other: Recipe) -> list[tuple[str, object, object]]:
    """(field, value in `one`, value in `other`) for every field that differs."""
    a, b = ({"task": recipe.task, **flatten(recipe)} for recipe in (one, other))
    return [(name, a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)]
