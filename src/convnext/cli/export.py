"""`convnext export CHECKPOINT --format F`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convnext.cli.common import fetched, parse, print_table, stderr, stdout, table
from convnext.errors import ConvNextError

DESCRIPTION = """Write a model as a file that runs without this package, and compare it with PyTorch before it is handed over.

    convnext export runs/small-finetune --format onnx
    convnext export model.safetensors --format openvino --precision int8 --calibration photos
    convnext export convnext_tiny.in1k --format torch-export --dynamic batch,size --images holiday/*.jpg
    convnext export runs/small-finetune --format aot-inductor --out model.aoti.pt2
    convnext export runs/small-detect --format onnx --images streets

    format        file          precisions              detectors         needs
    onnx          .onnx         fp32, fp16, int8        fp32, fp16        convnext[export]
    openvino      .xml + .bin   fp32, fp16, bf16, int8  fp32, fp16, bf16  convnext[export]
    torch-export  .pt2          fp32, fp16, bf16        fp32
    aot-inductor  .aoti.pt2     fp32, fp16, bf16        none              a C++ compiler; for this kind of processor

fp16 in onnx and openvino halves the file: weights are stored in fp16, and a CPU computes in fp32. bf16 in openvino keeps
the file and computes in bf16. In the other two, weights and arithmetic are of that type. int8 (convnext[int8]) measures
ranges on the images of --calibration, and leaves the layers that disturb the result most in fp32 until the agreement is
there.

Every file is run on real images beside the model: those of --images, else of --calibration, else what the run held out,
else drawn ones. Beyond the tolerance (fp32: 1e-4 and the same top-1 everywhere; else 99 % of top-1) nothing is written.
Of a detector both must find the same things (fp32: 99.5 % of them, scores within 1e-3; else 90 %).

The file says its task, classes and preprocessing: `convnext predict FILE images..` and `evaluate` take it as they take a
checkpoint."""


@dataclass(frozen=True)
class Arguments:
    checkpoint: tyro.conf.Positional[str]
    """A run's folder, a checkpoint file, or a name of the catalog."""
    format: Literal["onnx", "openvino", "torch-export", "aot-inductor"] = "onnx"
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    dynamic: str | None = None
    """What is left free: batch, size, both as batch,size, or none; by default the batch.
    Segmenters have the size of their windows.
    Detectors take one picture a call, of any size, or with --image-size one padded to a square."""
    batch: int = 1
    """Images of a call where batch is not free."""
    image_size: int | None = None
    """Side in pixels, if not the checkpoint's."""
    out: Path | None = None
    """The file to write; beside the checkpoint if not given, for a name of the catalog here."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Which weights of a run."""
    images: tuple[str, ...] = ()
    """Files, folders or globs of images to compare on."""
    calibration: tuple[str, ...] = ()
    """For int8: files, folders or globs of images like those of the task; a run's own training images if not given."""
    calibration_images: int = 300
    """At most so many of them."""
    comparison_images: int | None = None
    """At most so many images are compared; by default 100, and of a detector 10."""
    tolerance: float | None = None
    """The largest difference of two logits (by default 1e-4 in fp32) or of a detector's scores (1e-3).
    In other precisions any."""
    agreement: float | None = None
    """The least share of equal top-1, in percent; by default 100 in fp32 (99.9 of a segmenter's pixels), else 99.
    Of a detector, of things that both find: 99.5, else 90."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "export", DESCRIPTION)
    free = _free(arguments)

    from convnext.cli.options import counted_bar
    from convnext.export import formats
    from convnext.export.pictures import of_files
    from convnext.export.run import export
    from convnext.export.runtime import is_exported
    from convnext.export.trained import describe, open_checkpoint, smallest_side
    from convnext.export.verify import Tolerance, tolerance_for
    from convnext.trained import task_of

    form = formats.choose(arguments.format, arguments.precision)
    formats.require_all(form, arguments.precision)
    source = fetched(arguments.checkpoint)
    if is_exported(source):
        raise ConvNextError(f"{source} is an exported file already; give the checkpoint that it was made of.")
    task = task_of(source)
    batch, size_free = _axes(arguments, free, task)
    if task == "detection":
        formats.check_detector(form, arguments.precision)
    trained = open_checkpoint(source, task, arguments.weights, arguments.image_size)
    pre = trained.preprocess
    side = pre.size if task == "classification" else pre.crop or pre.short
    metadata = describe(
        trained,
        task,
        form.name,
        arguments.precision,
        batch=batch,
        size=None if size_free else (side, side),
        smallest=smallest_side(trained.model) if size_free else side,
        versions=_versions(),
    )
    file = arguments.out or formats.default_file(
        _beside(arguments.checkpoint, trained.source), form, arguments.precision
    )
    if file.suffix != form.suffix:
        raise ConvNextError(f"A file of the format {form.name} ends in {form.suffix}, and --out in {file.suffix!r}.")
    calibration = None
    if arguments.precision == "int8":
        calibration = _calibration(arguments, source)
    limit = arguments.comparison_images or (10 if task == "detection" else 100)
    pictures = of_files(arguments.images, limit) if arguments.images else _pictures(arguments, source, side, limit)
    usual = tolerance_for(task, arguments.precision)
    tolerance = Tolerance(
        usual.difference if arguments.tolerance is None else arguments.tolerance,
        usual.agreement if arguments.agreement is None else arguments.agreement,
    )
    err = stderr()
    calibrated = f", calibrated on {calibration.what}" if calibration else ""
    err.print(f"[dim]{trained.source} -> {file}, compared on {pictures.what}{calibrated}[/]")
    with counted_bar("comparing") as progress:
        report = export(trained, metadata, file, pictures, tolerance, calibration, err.print, progress)
    _print(report, form, pictures.what)
    return 0


def _free(arguments: Arguments) -> set[str] | None:
    """Which of batch and size --dynamic leaves free; None if it is not given."""
    if arguments.batch < 1:
        raise ConvNextError(f"--batch is {arguments.batch}; a call has one image at least.")
    if arguments.dynamic is None:
        return None
    words = {word.strip() for word in arguments.dynamic.split(",")} - {""}
    if not words <= {"batch", "size", "none"} or ("none" in words and len(words) > 1):
        raise ConvNextError(f"--dynamic is {arguments.dynamic!r}; it must be batch, size, batch,size, or none.")
    return words - {"none"}


def _axes(arguments: Arguments, free: set[str] | None, task: str) -> tuple[int | None, bool]:
    """(images of a call or None for any, whether the size is free)."""
    if task == "detection":
        square = arguments.image_size is not None
        if arguments.batch != 1 or free not in (None, set() if square else {"size"}):
            raise ConvNextError(
                "A detector is exported for one picture a call, of any size, or with --image-size for one that is padded to a "
                "square of that side: leave out --dynamic and --batch."
            )
        return 1, not square
    if task == "segmentation" and free and "size" in free:
        raise ConvNextError("A segmenter is exported for windows of one size: give --dynamic batch or none.")
    free = {"batch"} if free is None else free
    return (None if "batch" in free else arguments.batch), "size" in free


def _versions() -> dict[str, str]:
    from convnext.export.metadata import versions

    return versions("torch", "onnx", "onnxruntime", "openvino", "nncf")


def _beside(named: str, source: str) -> Path:
    """The path whose name and folder the file gets: the run's or file's own, here for a name of the catalog."""
    return Path(source) if Path(named).exists() else Path(f"{named}.safetensors")


def _calibration(arguments: Arguments, source: str):
    from convnext.export.pictures import of_files, of_run
    from convnext.runtime.run_folder import is_run

    if arguments.calibration:
        return of_files(arguments.calibration, arguments.calibration_images)
    return of_run(Path(source), "train", arguments.calibration_images) if is_run(Path(source)) else None


def _pictures(arguments: Arguments, source: str, side: int, limit: int):
    """What to compare on where nothing is named."""
    from convnext.export.pictures import drawn, of_files, of_run
    from convnext.runtime.run_folder import is_run

    if arguments.calibration:
        return of_files(arguments.calibration, limit)
    if is_run(Path(source)):
        return of_run(Path(source), "val", limit)
    return drawn(side)


def _print(report, form, what: str) -> None:
    found, out = report.comparison, stdout()
    sizes = ", ".join(f"{height} x {width}" for height, width in found.sizes)
    rows = [
        ("format", f"{form.name}, {report.metadata.precision}: {form.precisions[report.metadata.precision]}"),
        ("file", report.file),
        ("size", f"{report.bytes / 1e6:.1f} MB"),
        ("compared on", f"{what}, {sizes} px"),
        *found.rows(report.tolerance),
        ("seconds", f"{report.seconds:.1f}"),
    ]
    if report.metadata.precision == "int8":
        rows.append(("in fp32", ", ".join(report.metadata.kept) or "no layer had to stay"))
    print_table(out, table(("", ""), rows, left=2))
    out.print(f"Use it: convnext predict {report.file} IMAGES..   convnext evaluate {report.file} --data FOLDER")
