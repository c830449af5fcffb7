"""What `evaluate` and `predict` do for detectors."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Evaluate(EvaluateOptions):
    per_class: bool = True
    """Print the table of classes (at most 50, the worst first); the JSON has all."""
    fast: bool = False
    """The faster evaluator (faster-coco-eval), the same within 1e-3, in place of pycocotools, whose number is reported."""
    batch: int = 1


@dataclass(frozen=True)
class Predict(PredictOptions):
    out: Path = Path("predictions")
    """Folder for the pictures (NAME.jpg with boxes, masks, names and scores) and detections.json."""
    threshold: float = 0.3
    """Least score of what is drawn and counted; the JSON has everything from 0.05."""
    masks: bool = True
    """Draw the masks."""


def _open(name: str, device, which: str):
    """The `TrainedDetector` in a checkpoint, a run, or an exported file."""
    if is_exported(name):
        from convnext.export.trained import exported_detector

        return exported_detector(name)
    from convnext.detection.load import load_detector

    return load_detector(name, device, which)


def evaluate(argv: list[str], description: str) -> int:
    return with_world(parse(Evaluate, argv, "evaluate", description), _evaluate)


def _evaluate(arguments: Evaluate, world) -> int:
    from convnext.data.loader import default_workers
    from convnext.detection.coco import open_coco_split
    from convnext.detection.evaluate import evaluate as measure
    from convnext.runtime.precision import resolve_precision
    from convnext.runtime.run_folder import is_run, read_config

    model = world.on_main(lambda: fetched(arguments.model))
    folder = Path(model)
    data, val_share, seed = arguments.data, 0.1, 0
    if is_run(folder):
        recipe = read_config(folder)[1]
        data, val_share, seed = data or recipe.data, recipe.val_share, recipe.seed
    if data is None:
        raise ConvNextError("Give the labelled images to evaluate on: --data with a folder in COCO's layout.")
    trained = {w: _open(model, world.device, w) for w in weights_wanted(arguments, model)}
    first = next(iter(trained.values()))
    images = open_coco_split(data, "val", val_share, seed)
    if list(images.classes) != first.classes:
        raise ConvNextError(
            f"{data} has {len(images.classes)} classes ({', '.join(images.classes[:3])}, ..) and the model "
            f"{len(first.classes)} ({', '.join(first.classes[:3])}, ..); they must be the same, in the same order."
        )
    workers = default_workers(world.device, world.local_size) if arguments.workers is None else arguments.workers
    with progress_bar("evaluating", -(-len(images) // world.size), world.is_main) as progress:
        results = measure(
            {w: d.model for w, d in trained.items()},
            images,
            first.preprocess,
            world,
            resolve_precision(arguments.precision, world.device),
            arguments.batch,
            workers,
            progress=progress,
            reference=not arguments.fast,
        )
    if world.is_main:
        out = arguments.out or (folder / "evaluation" if is_run(folder) else None)
        _report(arguments, data, len(images), trained, results, out)
    return 0


def _report(arguments: Evaluate, data: str, images: int, trained: dict, results: dict, folder: Path | None) -> None:
    from convnext.files import replace_text, to_json

    out = stdout()
    found = {which: result.metrics() for which, result in results.items()}
    areas = ("", "50", "75", "_small", "_medium", "_large")
    rows = [
        (which, kind, *(f"{metrics[f'{kind}_ap{area}']:.2f}" for area in areas))
        for which, metrics in found.items()
        for kind in ("box", "mask")
        if f"{kind}_ap" in metrics
    ]
    title = f"{images:,} images of {data}, {'faster-coco-eval' if arguments.fast else 'pycocotools'}"
    columns = ("weights", "of", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
    print_table(out, table(columns, rows, title, left=2))
    best = max(results, key=lambda which: found[which]["box_ap"])
    seen = [row for row in results[best].per_class if row["objects"]]
    if arguments.per_class and len(seen) > 1:
        worst = sorted(seen, key=lambda row: row["box_ap"])[:50]
        rows = [
            (row["name"], row["objects"], *(f"{row[k]:.1f}" for k in ("box_ap", "mask_ap") if k in row))
            for row in worst
        ]
        out.print()
        columns = ("class", "objects", "box AP", "mask AP")[: len(rows[0])]
        print_table(out, table(columns, rows, worst_first(best, len(worst), len(seen))))
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "data": data,
        "images": images,
        "results": found,
        "per_class": {w: r.per_class for w, r in results.items()},
    }
    replace_text(folder / "evaluation.json", to_json(summary, indent=1) + "\n")
    for which, result in results.items():
        result.write_json(folder / f"detections-{which}.json")
    out.print(f"Written: {folder} (evaluation.json, detections-WEIGHTS.json)")


def predict(argv: list[str], description: str) -> int:
    arguments = parse(Predict, argv, "predict", description)

    import numpy as np
    import torch

    from convnext.data.pixels import pad_to_multiple
    from convnext.detection.coco_file import require
    from convnext.detection.evaluate import to_coco
    from convnext.files import replace_text
    from convnext.report.detection import draw_detections
    from convnext.runtime.device import choose_device
    from convnext.runtime.precision import autocast, resolve_precision

    pictures = Pictures(arguments.images, "detecting")
    encode = require("pycocotools.mask").encode
    device = choose_device(arguments.device)
    trained = _open(fetched(arguments.model), device, arguments.weights)
    precision = resolve_precision(arguments.precision, device)
    out, err = stdout(), stderr()
    err.print(
        f"[dim]{trained.source}, {len(trained.classes)} classes, short side {trained.preprocess.short} px, {device}[/]"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, detections = [], []
    with torch.inference_mode(), autocast(precision, device):
        for number, file, stem, image in pictures:
            x = trained.preprocess(image)
            found = trained.model.predict(
                pad_to_multiple([x]).to(device),
                image_sizes=[tuple(x.shape[-2:])],
                output_sizes=[(image.height, image.width)],
            )[0]
            listed = to_coco(found, number, np.asarray(trained.category_ids), encode)
            detections += [{"file_name": file, **detection} for detection in listed]
            kept = found["scores"] >= arguments.threshold
            shown = {key: value[kept].cpu().numpy() for key, value in found.items()}
            masks = shown["masks"] if arguments.masks else None
            picture = draw_detections(image, shown["boxes"], shown["labels"], shown["scores"], masks, trained.classes)
            picture.save(arguments.out / f"{stem}.jpg", quality=92)
            counts = Counter(trained.classes[label] for label in shown["labels"])
            rows.append((file, ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"))
    replace_text(arguments.out / "detections.json", json.dumps(detections))
    if rows:
        print_table(out, table(("image", f"found with a score of at least {arguments.threshold:g}"), rows, left=2))
        out.print(f"Written: {arguments.out} (pictures, detections.json)")
    return 2 if pictures.failed else 0
