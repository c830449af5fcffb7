"""An export from end to end: write aside, run the file beside the model, and put it in place if the two agree."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from convnext.errors import ConvNextError
from convnext.export import formats, int8
from convnext.export.images import ImageSet, drawn, of_files, of_training
from convnext.export.options import ExportOptions
from convnext.export.runtime import backend_of, opened
from convnext.files import sync
from convnext.task.compare import Compared, Tolerance
from convnext.task.exported import Exported, Metadata
from convnext.task.spec import Loaded, TaskSpec
from convnext.tasks import Opened

ENDINGS = {".xml": (".bin", ".xml")}  # the file that names the other comes last

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, repr=False)
class Report:
    """The file that was written, the comparison with its model, and the seconds that both took."""

    file: Path
    bytes: int
    metadata: Metadata
    comparison: Compared
    tolerance: Tolerance
    compared_on: str
    seconds: float

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) rows for the terminal."""
        metadata, sizes = self.metadata, ", ".join(f"{h} x {w}" for h, w in self.comparison.sizes)
        rows = [
            (
                "format",
                f"{metadata.format}, {metadata.precision}: {formats.FORMATS[metadata.format].precisions[metadata.precision]}",
            ),
            ("file", str(self.file)),
            ("size", f"{self.bytes / 1e6:.1f} MB"),
            ("compared on", f"{self.compared_on}, {sizes} px"),
            *self.comparison.rows(self.tolerance),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        if metadata.precision == "int8":
            rows.append(("not in int8", ", ".join(metadata.kept) or "no layer had to be spared"))
        return rows

    def __str__(self) -> str:
        return "\n".join(f"{label:19} {text}" for label, text in self.rows())

    def __repr__(self) -> str:
        return f"<Report: {self.file}, {self.bytes / 1e6:.1f} MB, {self.metadata.format} {self.metadata.precision}>"


def export_opened(
    name: str,
    source: Opened,
    options: ExportOptions,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Export a trained model as `options` say, with the images that they name or that its training held out.

    Args:
        name: as a person named it: a path, beside which the file is written, or a name of the catalog.

    Raises:
        ConvNextError: as `export`; options that contradict each other or do not fit the task.
    """
    free, (form, precision) = options.free_axes(), formats.choose(options.format, options.precision)
    spec, loaded = source.spec, source.loaded
    formats.check_task(form, precision, spec)
    formats.require_all(form, precision)
    if isinstance(loaded.module, Exported):
        raise ConvNextError(f"{name} is an exported file already; give the checkpoint that it was made of.")
    batch, size_free = spec.axes(free, options.batch, options.image_size)
    if options.image_size is not None:
        loaded = spec.resized(loaded, options.image_size)
    loaded = replace(loaded, module=loaded.module.cpu())
    side = spec.side(loaded)
    metadata = describe(
        spec,
        loaded,
        form.name,
        precision,
        batch=batch,
        size=None if size_free else (side, side),
        smallest=formats.smallest_side(form, spec, loaded) if size_free else side,
    )
    beside = Path(loaded.source) if Path(name).exists() else Path(f"{name}.safetensors")
    file = options.out or formats.default_file(beside, form, precision)
    if not file.name.endswith(form.suffix):
        raise ConvNextError(f"A file of the format {form.name} ends in {form.suffix}, and --out is {file.name!r}.")
    if file.exists() and not options.overwrite:
        raise ConvNextError(f"{file} is there already. Give --overwrite to replace it, or another --out.")
    recipe, calibration = source.data_recipe, None
    if precision == "int8":
        if options.calibration:
            calibration = of_files(options.calibration, options.calibration_images)
        elif recipe:
            calibration = of_training(spec, recipe, "train", options.calibration_images)
    limit = options.comparison_images or spec.compared_images
    named = options.images or options.calibration
    if named:
        images = of_files(named, limit)
    else:
        images = of_training(spec, recipe, "val", limit) if recipe else drawn(side)
    usual = spec.tolerance(precision)
    tolerance = Tolerance(
        usual.difference if options.tolerance is None else options.tolerance,
        usual.agreement if options.agreement is None else options.agreement,
    )
    calibrated = f", calibrated on {calibration.words}" if calibration else ""
    say(f"{loaded.source} -> {file}, compared on {images.words}{calibrated}")
    return export(spec, loaded, metadata, file, images, tolerance, calibration, say, progress)


def describe(spec: TaskSpec, loaded: Loaded, format: str, precision: str, **axes: Any) -> Metadata:
    """The metadata of an export; `axes`: batch, size, smallest."""
    model: Any = loaded.module
    config = getattr(model, "config", None) or {}
    built = {**config, "num_classes": model.num_classes} if config and formats.FORMATS[format].rebuilt else {}
    split = loaded.metadata.get("split")
    return Metadata(
        task=spec.name,
        model=config.get("name", type(model).__name__),
        build=built,
        format=format,
        precision=precision,
        classes=list(loaded.classes),
        names=list(loaded.names) if loaded.names != loaded.classes else None,
        thresholds=loaded.metadata.get("thresholds"),
        preprocess=asdict(loaded.preprocess),
        in_chans=getattr(model, "in_chans", 3),
        inputs=spec.inputs,
        outputs=spec.outputs,
        pads=spec.pads,
        data=dict(split) if isinstance(split, dict) else {},
        versions=versions("torch", "onnx", "onnxruntime", "openvino", "nncf"),
        **axes,
    )


def versions(*packages: str) -> dict[str, str]:
    """Versions of convnext and of the installed ones among `packages`."""
    from importlib.metadata import PackageNotFoundError, version

    from convnext import __version__

    known = {"convnext": __version__}
    for package in packages:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return known


def export(
    spec: TaskSpec,
    loaded: Loaded,
    metadata: Metadata,
    file: Path,
    images: ImageSet,
    tolerance: Tolerance,
    calibration: ImageSet | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Write the model as `metadata` describes it, compare, and put it in place of `file`.

    Args:
        loaded: the model, on the CPU.
        images: compared at every size that the file takes (`TaskSpec.views`).
        calibration: for int8.

    Raises:
        ConvNextError: the format cannot carry the model, an extra is missing, or the file is beyond the tolerance; the file
            that was there before is untouched.
    """
    formats.require_all(formats.FORMATS[metadata.format], metadata.precision)
    began = time.monotonic()
    views = [viewed(images, view) for view in spec.views(loaded, metadata)]

    def judged(aside: Path, told: Metadata) -> Compared:
        return spec.compare(loaded, opened(aside, told), images.names, views, progress)

    with _aside(file) as aside:
        if metadata.precision == "int8":
            metadata, comparison = _write_int8(spec, loaded, metadata, aside, judged, calibration, tolerance, say)
        else:
            backend_of(metadata.format).write(loaded.module, aside, metadata)
            comparison = judged(aside, metadata)
        if why := comparison.failure(tolerance):
            raise ConvNextError(
                f"The {metadata.format} file in {metadata.precision} is not what PyTorch computes: {why}. Nothing was "
                "written. Give another format or precision, or a larger --tolerance or smaller --agreement if that is "
                "good enough."
            )
        size = _place(aside, file)
    return Report(file, size, metadata, comparison, tolerance, images.words, time.monotonic() - began)


def viewed(images: ImageSet, view: Callable[[Any], Tensor]) -> Callable[[int], Tensor]:
    """A function that makes image i (3, H, W), normalised."""
    return lambda i: view(images.image(i))


def _write_int8(
    spec: TaskSpec,
    loaded: Loaded,
    metadata: Metadata,
    aside: Path,
    judged: Callable[[Path, Metadata], Compared],
    calibration: ImageSet | None,
    tolerance: Tolerance,
    say: Say,
) -> tuple[Metadata, Compared]:
    """Quantise to `aside`; the metadata with the layers that stayed in fp32, and the comparison that was good enough."""
    if not calibration:
        raise ConvNextError(
            "int8 needs images of the task to measure the ranges of the activations on: --calibration with a folder of them, "
            "a hundred or more."
        )
    backend = backend_of(metadata.format)
    attempts: list[tuple[Metadata, Compared]] = []
    view = viewed(calibration, spec.views(loaded, metadata)[0])

    def agreement(network: Any, kept: list[str]) -> float:
        told = replace(metadata, kept=kept)
        backend.save(network, aside, told)
        attempts.append((told, judged(aside, told)))
        return attempts[-1][1].agreement

    inputs = [view(i) for i in range(len(calibration))]
    int8.quantize(loaded.module, metadata, inputs, agreement, tolerance.agreement, say)
    return attempts[-1]


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
    """Move the written files to their place, each at once; the bytes in all."""
    size = 0
    for ending in ENDINGS.get(file.suffix, (file.suffix,)):
        written = aside.with_suffix(ending)
        size += written.stat().st_size
        sync(written)
        os.replace(written, file.with_suffix(ending))
    return size
