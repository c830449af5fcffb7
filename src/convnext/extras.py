"""Modules that come with an extra of the package, and the command that installs it here."""

import importlib
from pathlib import Path
from typing import Any

from convnext.errors import ConvNextError

CLONE = Path(__file__).parents[2]


def require(module: str, extra: str) -> Any:
    """Import a module that an extra brings.

    Raises:
        ConvNextError: it cannot be imported; the message has the command that installs it, in a clone or from a package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConvNextError(
            f"This needs {module.partition('.')[0]}, which cannot be imported ({error}). Install it: {command(extra)}"
        ) from None


def command(extra: str) -> str:
    """The command that installs an extra: with uv in a clone of the repository, with pip elsewhere."""
    if (CLONE / "pyproject.toml").exists():
        return f"uv sync --inexact --extra {extra}"
    return f'pip install "convnext[{extra}]"'
