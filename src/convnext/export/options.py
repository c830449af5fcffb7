"""Options of an export, for the command line and for Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convnext.errors import ConvNextError
from convnext.recipes.ranges import BATCH, SIDE, ranged


@dataclass(frozen=True)
class ExportOptions:
    """Options of `convnext export` and `Trained.export`."""

    format: Literal["onnx", "openvino", "torch-export", "aot-inductor", "convnext-int8"] = "onnx"
    """Format of the file, see above."""
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """Precision of weights and arithmetic; formats differ in what they have. By default fp32, of convnext-int8 int8."""
    dynamic: str | None = None
    """Dynamic axes: batch, size, both as batch,size, or none; by default the batch.
    Segmenters have the size of their windows.
    Detectors take one image a call, of any size, or with --image-size one padded to a square."""
    batch: int = ranged(1, **BATCH)
    """Images of a call where the batch is not dynamic."""
    image_size: int | None = ranged(None, **SIDE)
    """Side in pixels, if not the checkpoint's."""
    out: Path | None = None
    """The file to write; beside the checkpoint if not given, for a name of the catalog here."""
    overwrite: bool = False
    """Replace a file that is there already."""
    images: tuple[str, ...] = ()
    """Files, folders or globs of images to compare on."""
    calibration: tuple[str, ...] = ()
    """For int8: files, folders or globs of images like those of the task; a run's own training images if not given."""
    calibration_images: int = ranged(300, at_least=1)
    """Maximum number of calibration images."""
    comparison_images: int | None = ranged(None, at_least=1)
    """Maximum number of images compared; by default 100, and of a detector 10."""
    tolerance: float | None = ranged(None, at_least=0)
    """The largest difference of two logits (by default 1e-4 in fp32) or of a detector's scores (1e-3).
    In other precisions any."""
    agreement: float | None = ranged(None, at_least=0, at_most=100)
    """The least share of equal top-1, in percent; by default 100 in fp32 (99.9 of a segmenter's pixels), else 99.
    Of a detector, of objects that both find: 99.5, else 90."""

    def free_axes(self) -> set[str] | None:
        """Axes that --dynamic leaves free; None if it is not given.

        Raises:
            ConvNextError: it names something else.
        """
        if self.dynamic is None:
            return None
        words = {word.strip() for word in self.dynamic.split(",")} - {""}
        if not words <= {"batch", "size", "none"} or ("none" in words and len(words) > 1):
            raise ConvNextError(f"--dynamic is {self.dynamic!r}; it must be batch, size, batch,size, or none.")
        return words - {"none"}
