"""An export from end to end: write aside, run what was written beside the model, and put it in place if it agrees."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from convnext.classification.transforms import Preprocess, eval_transform
from convnext.data.conventions import PAD_MULTIPLE
from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.export import int8
from convnext.export.formats import FORMATS, require_all
from convnext.export.metadata import Metadata
from convnext.export.pictures import Pictures
from convnext.export.runtime import backend_of, opened
from convnext.export.verify import Comparison, Tolerance, compare
from convnext.export.verify_detector import DetectorComparison, compare_detectors
from convnext.files import sync

ENDINGS = {".xml": (".bin", ".xml")}  # the file that names the other comes last


@dataclass(frozen=True)
class Report:
    """What was written, how it compares, and how long it took."""

    file: Path
    bytes: int
    metadata: Metadata
    comparison: Comparison | DetectorComparison
    tolerance: Tolerance
    seconds: float


def export(
    trained,
    metadata: Metadata,
    file: Path,
    pictures: Pictures,
    tolerance: Tolerance,
    calibration: Pictures | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write the model as `metadata` describes it, compare, and put it in place of `file`.

    Args:
        trained: a `Classifier`, `TrainedSegmenter` or `TrainedDetector` on the CPU.
        pictures: compared at every size that the file takes: its own, and a second one where the size is free; for a
            detector at their own sizes.
        calibration: for int8.

    Raises:
        ConvNextError: the format cannot carry the model, an extra is missing, or the file is beyond the tolerance; what
            was there before is untouched.
    """
    require_all(FORMATS[metadata.format], metadata.precision)
    began = time.monotonic()
    names, views = (
        pictures.names,
        [viewer(pictures, metadata, grown) for grown in (0, 1)[: 1 + (metadata.size is None)]],
    )

    def judged(aside: Path, told: Metadata) -> Comparison | DetectorComparison:
        if told.task == "detection":
            multiple = told.size[0] if told.size else PAD_MULTIPLE
            return compare_detectors(
                trained.model, opened(aside, told), names, views[0], told.classes, multiple, progress
            )
        return compare(trained.model, opened(aside, told), names, views, told.classes, progress)

    with _aside(file) as aside:
        if metadata.precision == "int8":
            metadata, found = _write_int8(trained, metadata, aside, judged, calibration, tolerance, say)
        else:
            backend_of(metadata.format).write(trained.model, aside, metadata)
            found = None
        found = found or judged(aside, metadata)
        if why := found.failure(tolerance):
            raise ConvNextError(
                f"The {metadata.format} file in {metadata.precision} is not what PyTorch computes: {why}. Nothing was "
                "written. Give another format or precision, or a larger --tolerance or smaller --agreement if that is "
                "good enough."
            )
        size = _place(aside, file)
    return Report(file, size, metadata, found, tolerance, time.monotonic() - began)


def _write_int8(
    trained, metadata: Metadata, aside: Path, judged, calibration: Pictures | None, tolerance: Tolerance, say
) -> tuple[Metadata, Comparison]:
    """Quantise to `aside`; the metadata with the layers that stayed in fp32, and the comparison that was good enough."""
    if not calibration:
        raise ConvNextError(
            "int8 needs images of the task to measure the ranges of the activations on: --calibration with a folder of them, "
            "a hundred or more."
        )
    backend, found = backend_of(metadata.format), []
    view = viewer(calibration, metadata)

    def agreement(network, kept: list[str]) -> float:
        told = replace(metadata, kept=kept)
        backend.save(network, aside, told)
        found.append((told, judged(aside, told)))
        return found[-1][1].agreement

    images = [view(i) for i in range(len(calibration))]
    int8.quantize(trained.model, metadata, images, agreement, tolerance.agreement, say)
    return found[-1]


def viewer(pictures: Pictures, metadata: Metadata, grown: int = 0) -> Callable[[int], Tensor]:
    """What makes picture i (3, H, W), normalised, at the size that the export is used at, or half as large again."""
    if metadata.task == "classification":
        pre = Preprocess.from_dict(metadata.preprocess)
        transform = eval_transform(replace(pre, size=max(pre.size, metadata.smallest) * (2 + grown) // 2))
        return lambda i: transform(pictures.image(i))
    dense = DensePreprocess.from_dict(metadata.preprocess)
    if metadata.task == "detection":
        return lambda i: dense(pictures.image(i))

    def window(i: int) -> Tensor:
        x, (height, width) = dense(pictures.image(i)), metadata.size or (dense.short, dense.short)
        top, left = (max(side - crop, 0) // 2 for side, crop in zip(x.shape[1:], (height, width), strict=True))
        x = x[:, top : top + height, left : left + width]
        whole = x.new_zeros(len(x), height, width)
        whole[:, : x.shape[1], : x.shape[2]] = x
        return whole

    return window


@contextmanager
def _aside(file: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own beside `file`, which is gone afterwards."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    except OSError as error:
        raise ConvNextError(f"{file} cannot be written: {error}. Give another --out.") from error
    try:
        yield folder / file.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(aside: Path, file: Path) -> int:
    """Move what was written to its place, each file at once; the bytes in all."""
    size = 0
    for ending in ENDINGS.get(file.suffix, (file.suffix,)):
        written = aside.with_suffix(ending)
        size += written.stat().st_size
        sync(written)
        os.replace(written, file.with_suffix(ending))
    return size
