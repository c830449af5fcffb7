"""What `evaluate` and `predict` do for segmenters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convnext.cli.common import fetched, parse, print_table, stderr, stdout, table
from convnext.cli.options import (
    EvaluateOptions,
    Pictures,
    PredictOptions,
    is_exported,
    progress_bar,
    weights_wanted,
    with_world,
    worst_first,
)
from convnext.errors import ConvNextError

Mode = Literal["slide", "whole", "multi-scale"]


@dataclass(frozen=True)
class Evaluate(EvaluateOptions):
    mode: Mode = "slide"
    """slide: windows over the picture (Table 7); whole: all of it at once; multi-scale: six scales and their mirror images
    (Table 4)."""
    reduce_zero_label: bool | None = None
    """Whether label 0 means "no label" and the others count from 1; None: as in the run, or by the data's layout."""
    per_class: bool = True
    """Print the table of classes (at most 50, the worst first); the JSON has all."""


@dataclass(frozen=True)
class Predict(PredictOptions):
    mode: Mode = "slide"
    """As for `evaluate`."""
    out: Path = Path("predictions")
    """Folder for the pictures: NAME.overlay.jpg (the picture under colours, with a legend), NAME.colours.png, and
    NAME.png, whose values are the labels."""
    alpha: float = 0.6
    """Strength of the colours in the overlay, 0 to 1."""


def _open(name: str, device, which: str, mode: str):
    """The `TrainedSegmenter` in a checkpoint, a run, or an exported file."""
    if is_exported(name):
        from convnext.export.trained import exported_segmenter

        if mode != "slide":
            raise ConvNextError(f"{name} is exported for windows of one size, so its --mode is slide, not {mode}.")
        return exported_segmenter(name)
    from convnext.segmentation.load import load_segmenter

    return load_segmenter(name, device, which)


def evaluate(argv: list[str], description: str) -> int:
    return with_world(parse(Evaluate, argv, "evaluate", description), _evaluate)


def _evaluate(arguments: Evaluate, world) -> int:
    from convnext.runtime.precision import resolve_precision
    from convnext.runtime.run_folder import is_run, read_config
    from convnext.segmentation.masks import open_masks_split
    from convnext.segmentation.miou import evaluate as measure

    model = world.on_main(lambda: fetched(arguments.model))
    folder = Path(model)
    data, val_share, seed, reduce = arguments.data, 0.1, 0, arguments.reduce_zero_label
    if is_run(folder):
        recipe = read_config(folder)[1]
        data, val_share, seed = data or recipe.data, recipe.val_share, recipe.seed
        reduce = recipe.reduce_zero_label if reduce is None else reduce
    if data is None:
        raise ConvNextError(
            "Give the labelled images to evaluate on: --data with a folder in ADE20K's layout, or similar."
        )
    trained = {w: _open(model, world.device, w, arguments.mode) for w in weights_wanted(arguments, model)}
    first = next(iter(trained.values()))
    images = open_masks_split(data, "val", val_share, seed, reduce)
    if len(images.classes) != len(first.classes):
        raise ConvNextError(
            f"{data} has {len(images.classes)} classes and the model {len(first.classes)}: it cannot be evaluated on them. "
            "Give data with the model's classes, or --reduce-zero-label if the labels count from 1."
        )
    with progress_bar("evaluating", -(-len(images) // world.size), world.is_main) as progress:
        results = measure(
            {w: s.model for w, s in trained.items()},
            images,
            first.preprocess,
            world,
            resolve_precision(arguments.precision, world.device),
            arguments.mode,
            progress=progress,
            crop=first.preprocess.crop,
        )
    if world.is_main:
        out = arguments.out or (folder / "evaluation" if is_run(folder) else None)
        _report(arguments, data, len(images), trained, results, out)
    return 0


def _report(arguments: Evaluate, data: str, images: int, trained: dict, results: dict, folder: Path | None) -> None:
    import numpy as np

    from convnext.files import replace_text, to_json

    out = stdout()
    found = {which: result.metrics() for which, result in results.items()}
    rows = [
        (which, Path(trained[which].source).name, *(f"{metrics[key]:.2f}" for key in ("miou", "macc", "aacc")))
        for which, metrics in found.items()
    ]
    title = f"{images:,} images of {data}, {arguments.mode}"
    columns = ("weights", "file", "mIoU %", "class accuracy %", "pixel accuracy %")
    print_table(out, table(columns, rows, title, left=2))
    best = max(results, key=lambda which: found[which]["miou"])
    names, result = trained[best].classes, results[best]
    seen = np.flatnonzero(~np.isnan(result.iou))
    if arguments.per_class and len(seen) > 1:
        worst = seen[np.argsort(result.iou[seen])][:50]
        rows = [(names[i], f"{result.confusion[i].sum():,}", f"{result.iou[i]:.2f}") for i in worst]
        out.print()
        print_table(out, table(("class", "pixels", "IoU %"), rows, worst_first(best, len(worst), len(seen))))
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    per_class = {
        which: {names[i]: {"iou": float(r.iou[i]), "pixels": int(r.confusion[i].sum())} for i in seen}
        for which, r in results.items()
    }
    summary = {"data": data, "images": images, "mode": arguments.mode, "results": found, "per_class": per_class}
    replace_text(folder / "evaluation.json", to_json(summary, indent=1) + "\n")
    out.print(f"Written: {folder / 'evaluation.json'}")


def predict(argv: list[str], description: str) -> int:
    arguments = parse(Predict, argv, "predict", description)

    import numpy as np

    from convnext.report.segmentation import colour_mask, overlay, palette, percent, save_labels
    from convnext.runtime.device import choose_device
    from convnext.runtime.precision import resolve_precision
    from convnext.segmentation.sliding import predict_labels

    pictures = Pictures(arguments.images, "segmenting")
    device = choose_device(arguments.device)
    trained = _open(fetched(arguments.model), device, arguments.weights, arguments.mode)
    precision = resolve_precision(arguments.precision, device)
    out, err = stdout(), stderr()
    err.print(
        f"[dim]{trained.source}, {len(trained.classes)} classes, short side {trained.preprocess.short} px, {device}[/]"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, colours = [], palette(len(trained.classes))
    for _, file, stem, image in pictures:
        found = predict_labels(
            trained.model,
            image,
            trained.preprocess,
            arguments.mode,
            crop=trained.preprocess.crop,
            precision=precision,
        )
        labels = found.cpu().numpy()
        target = arguments.out / stem
        save_labels(labels, target.with_name(f"{stem}.png"))
        colour_mask(labels, colours).save(target.with_name(f"{stem}.colours.png"))
        overlay(image, labels, trained.classes, arguments.alpha).save(
            target.with_name(f"{stem}.overlay.jpg"), quality=92
        )
        present, counts = np.unique(labels, return_counts=True)
        order = np.argsort(-counts)[:5]
        shown = ", ".join(f"{trained.classes[present[i]]} {percent(counts[i] / labels.size)}" for i in order)
        rows.append((file, shown + (", .." if len(present) > 5 else "")))
    if rows:
        print_table(out, table(("image", "largest classes"), rows, left=2))
        out.print(f"Written: {arguments.out} (NAME.overlay.jpg, NAME.colours.png, NAME.png)")
    return 2 if pictures.failed else 0
