"""Names of served models, as they stand in addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from convnext.errors import ConvNextError


def named(words: Iterable[str]) -> dict[str, str]:
    """Name in the address -> model, for words `MODEL` and `NAME=MODEL`.

    Raises:
        ConvNextError: no model, two of one name, or a name that no address can have.
    """
    words = list(words)
    if not words:
        raise ConvNextError("Name a model: `convnext serve runs/quickstart`.")
    models: dict[str, str] = {}
    for word in words:
        name, equals, model = word.partition("=")
        if not equals or Path(word).exists():
            name, model = default_name(word), word
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII):
            raise ConvNextError(f"{name!r} cannot be the name of a model here: use letters, digits, dots, - and _.")
        if name in models:
            raise ConvNextError(f"Two models would be called {name}: give one of them another name, {name}2={model}.")
        models[name] = model
    return models


def default_name(model: str) -> str:
    """The name of a run's folder, or of a file; of a file with a name that every run has, its folder's."""
    path = Path(model)
    stem = path.name.partition(".")[0] if path.is_file() else path.name
    if path.is_file() and stem in ("best", "model", "model_ema"):
        stem = path.resolve().parent.name
    return re.sub(r"[^\w.-]+", "-", stem or path.resolve().name, flags=re.ASCII).strip("-.") or "model"
