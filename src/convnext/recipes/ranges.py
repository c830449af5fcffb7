"""Ranges of numeric options: stated at the field, checked in one place, for recipes and command lines alike.

@dataclass
class Options:
    batch: int = ranged(32, at_least=1, at_most=4096)

check_ranges(Options(batch=0))   # ConvNextError: --batch is 0; it must be at least 1 and at most 4096.
"""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from convnext.errors import ConvNextError

MAX_SIDE = 8192  # pixels: beyond it a single image fills the memory
SIDE: dict[str, Any] = {"at_least": 1, "at_most": MAX_SIDE}
LONG_SIDE: dict[str, Any] = {"at_least": 1, "at_most": 4 * MAX_SIDE}
SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}
MAX_BATCH = 1 << 20  # images
BATCH: dict[str, Any] = {"at_least": 1, "at_most": MAX_BATCH}
WORKERS: dict[str, Any] = {"at_least": 0, "at_most": 256}
STRICT = {"extra": "forbid"}  # for pydantic, which reads recipes back from a run's config


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each number of a tuple. `ordered`: the numbers of a tuple must not fall."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    ordered: bool = False
    nonempty: bool = False

    def holds(self, value: Any) -> bool:
        """True if the number or tuple lies within the bounds."""
        numbers = value if isinstance(value, tuple | list) else (value,)
        return (
            all(self._holds(number) for number in numbers)
            and not (self.ordered and list(numbers) != sorted(numbers))
            and not (self.nonempty and not numbers)
        )

    def _holds(self, number: float) -> bool:
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        words = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        bounds = " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
        return bounds + ", in rising order" * self.ordered + ", and one number or more" * self.nonempty


def ranged(default: Any, **bounds: Any) -> Any:
    """A dataclass field with a default and the bounds of `Range`; None as a value stands for "off" and is not checked.

    A subclass that only changes the default keeps the bounds.
    """
    return field(default=default, metadata={"range": Range(**bounds)})


def check_ranges(instance: Any, prefix: str = "--") -> None:
    """Check every number of a dataclass and of the dataclasses in it: finite, and within the bounds of its field.

    Args:
        prefix: stands before the names of the fields in the error; "--" makes them command-line options.

    Raises:
        ConvNextError: names the option, its value, and what it must be.
    """
    for each in fields(instance):
        value, option = getattr(instance, each.name), prefix + each.name.replace("_", "-")
        if is_dataclass(value):
            check_ranges(value, f"{option}.")
            continue
        numbers = value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConvNextError(f"{option} is {_shown(value)}; it must be finite.")
        bounds = range_of(type(instance), each.name)
        if bounds and value is not None and not isinstance(value, str) and not bounds.holds(value):
            every = "every number of it" if isinstance(value, tuple | list) else "it"
            raise ConvNextError(f"{option} is {_shown(value)}; {every} must be {bounds}.")


def range_of(kind: type, name: str) -> Range | None:
    """The bounds of a field, stated by the class or by the nearest of its bases that states any."""
    for base in kind.__mro__:
        stated = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if stated is not None and "range" in stated.metadata:
            return stated.metadata["range"]
    return None


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
