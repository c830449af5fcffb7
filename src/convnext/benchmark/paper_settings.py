"""The recipes in the words of Tables 5 and 6."""

import re
from collections.abc import Callable
from typing import Any

from convnext import paper, recipes
from convnext.recipes.schema import Classification, Optim


def settings() -> dict[str, list[list[str]]]:
    """{"5": [[value, value] of each row], "6": ..}: what our recipes have where the paper prints a value."""
    return {
        number: [
            [
                _together([_WORDS[row.name](_recipe(name)) for name in names])
                for names in (table.thesis_recipes if row.thesis else table.recipes)
            ]
            for row in table.rows
        ]
        for number, table in (("5", paper.TABLE5), ("6", paper.TABLE6))
    }


def _recipe(name: str) -> Any:
    return recipes.get(name)


def _together(values: list[str]) -> str:
    """One value where all models have it, else all of them with / between."""
    return values[0] if len(set(values)) == 1 else "/".join(values)


def _number(value: float | None) -> str:
    """As the paper writes it: 4e-3, 0.05, None."""
    if not value:
        return "None"
    return re.sub(r"e-0?", "e-", f"{value:.0e}") if value < 0.01 else f"{value:g}"


def _deviation(recipe: Classification) -> str:
    """Of a large weight of a model that was just built."""
    import torch

    from convnext.models import build

    torch.manual_seed(0)
    weight = build("convnext_atto").stages[3][0].pwconv1.weight
    return f"trunc. normal ({weight.std().item():.2f})"


def _schedule(recipe: Classification) -> str:
    return "cosine decay" if isinstance(recipe.optim, Optim) else recipe.optim.schedule(1, 1000).kind


def _rand_augment(recipe: Classification) -> str:
    found = re.fullmatch(r"rand-m(\d+)-mstd([\d.]+)-inc1", recipe.augment.rand_augment or "")
    return f"({found[1]}, {found[2]})" if found else str(recipe.augment.rand_augment)


def _warm_up(recipe: Classification) -> float | None:
    return recipe.optim.warmup_epochs if isinstance(recipe.optim, Optim) else None


_WORDS: dict[str, Callable[[Any], str]] = {
    "weight init": _deviation,
    "optimizer": lambda r: "AdamW",  # of every recipe: the options are its own
    "base learning rate": lambda r: _number(r.optim.lr),
    "weight decay": lambda r: _number(r.optim.weight_decay),
    "optimizer momentum": lambda r: f"β1, β2 = {r.optim.betas[0]:g}, {r.optim.betas[1]:g}",
    "batch size": lambda r: f"{r.total_batch}",
    "training epochs": lambda r: f"{r.epochs}",
    "learning rate schedule": _schedule,
    "warmup epochs": lambda r: _number(_warm_up(r)),
    "warmup schedule": lambda r: "linear" if _warm_up(r) else "N/A",
    "layer-wise lr decay": lambda r: _number(r.optim.layer_decay),
    "randaugment": _rand_augment,
    "label smoothing": lambda r: _number(r.augment.label_smoothing),
    "mixup": lambda r: _number(r.augment.mixup),
    "cutmix": lambda r: "None" if not r.augment.cutmix else f"{r.augment.cutmix:.1f}",
    "random erasing": lambda r: _number(r.augment.random_erasing),
    "stochastic depth": lambda r: f"{r.model.drop_path_rate:g}" if r.model.drop_path_rate else "0.0",
    "layer scale": lambda r: "pre-trained" if r.model.weights else _number(r.model.layer_scale_init_value),
    "head init scale": lambda r: "None" if r.model.head_init_scale == 1 else f"{r.model.head_init_scale:g}",
    "gradient clip": lambda r: _number(r.optim.clip_grad),
    "exp. mov. avg. (EMA)": lambda r: _number(r.ema.decay),
}
"""How each row of the tables reads a recipe."""
