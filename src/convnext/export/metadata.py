"""What an exported file says about itself: enough to use it, and to measure it, without the checkpoint."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from convnext.errors import ConvNextError

KEY = "convnext"  # ONNX: metadata_props; OpenVINO: rt_info; the two of PyTorch: a file convnext.json in the archive


@dataclass(frozen=True)
class Metadata:
    """Attributes:
    task, model: what for, and the name of the network.
    format, precision: see `formats`.
    classes: labels in the order of the outputs; `names` for people, where they are others.
    preprocess: what a picture goes through first: fields of `Preprocess` (`DensePreprocess` but for classification).
    batch: images in one call; None for any number.
    size: (height, width) of the input; None for any, of at least `smallest` pixels a side.
    kept: layers that int8 leaves in fp32: those that cut patches, and those that the measured agreement asked for.
    versions: of the packages that made it.
    """

    task: str
    model: str
    format: str
    precision: str
    classes: list[str]
    preprocess: dict
    batch: int | None = None
    size: tuple[int, int] | None = None
    smallest: int = 1
    in_chans: int = 3
    names: list[str] | None = None
    kept: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the graph takes; `size` is the height and width of a detector's picture inside its padding."""
        return ("images", "size") if self.task == "detection" else ("images",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the graph gives."""
        return ("boxes", "scores", "labels", "masks") if self.task == "detection" else ("logits",)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, file: Path) -> "Metadata":
        """The inverse of `to_json`.

        Raises:
            ConvNextError: `file` says nothing about itself, or what a newer version says.
        """
        if not text:
            raise ConvNextError(
                f"{file} does not say what it is: it has no metadata of `convnext export`. Export the checkpoint again."
            )
        try:
            values = json.loads(text)
            unknown = sorted(set(values) - {each.name for each in fields(cls)})
            if unknown:
                raise ValueError(f"it has the unknown fields {', '.join(unknown)}")
            return cls(**values | {"size": tuple(values["size"]) if values["size"] else None})
        except (ValueError, TypeError, KeyError) as error:
            raise ConvNextError(
                f"The metadata in {file} cannot be read: {error}. It may be from another version; export again."
            ) from error


def versions(*packages: str) -> dict[str, str]:
    """Of these packages, as far as they are installed, and of this one."""
    from importlib.metadata import PackageNotFoundError, version

    from convnext import __version__

    found = {"convnext": __version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
