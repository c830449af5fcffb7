"""Preprocessing that is written into a checkpoint and read from it."""

from dataclasses import asdict, fields
from typing import Any, Self

from convnext.errors import ConvNextError


class Stored:
    """Base of frozen dataclasses of numbers, words and tuples that convert to a dict for JSON and back."""

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """The inverse of `to_dict`, for values read from a checkpoint.

        Raises:
            ConvNextError: there are fields that this version does not know.
        """
        unknown = set(values) - {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown:
            raise ConvNextError(
                f"The checkpoint's preprocessing has unknown fields {sorted(unknown)}; it is from a newer version."
            )
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]
