"""Data that is named and not a path: datasets of the Hub, Python sequences."""

from convnext.data.formats.content import Content
from convnext.data.formats.hub import is_hub, read_hub
from convnext.data.formats.sequence import held, is_sequence, read_sequence
from convnext.recipes.reading import Reading


def is_named(data: str) -> bool:
    """True if data is of the Hub, or a Python sequence."""
    return is_hub(data) or is_sequence(data)


def read_named(data: str, reading: Reading) -> Content:
    """The images with their labels and objects. Raises ConvNextError: as `read_hub` and `read_sequence`."""
    return read_hub(data, reading) if is_hub(data) else read_sequence(held(data))


def read_named_for(data: str, reading: Reading, classes: list[str] | None) -> Content:
    """`read_named` to evaluate a model with these classes: all of a Python sequence, whose numbers count in them."""
    if is_hub(data):
        return read_hub(data, reading)
    content = read_sequence(held(data), classes)
    for item in content.items:
        item.part = "val"
    return content
