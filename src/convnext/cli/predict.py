"""`convnext predict MODEL IMAGES...`."""

import json
from dataclasses import dataclass
from typing import Literal

import tyro

from convnext.cli.common import fetched, parse, print_table, stderr, stdout, table

DESCRIPTION = """Classify images: a table on the terminal, or JSON lines with --json.

    convnext predict runs/small-finetune holiday/*.jpg
    convnext predict model.safetensors photos/ --top-k 3 --json > predictions.jsonl
    convnext predict convnext_tiny.in1k cat.png

Exit code 2 if an image could not be read; the others are still classified."""


@dataclass(frozen=True)
class Arguments:
    model: tyro.conf.Positional[str]
    """A run's folder, a checkpoint file, or a name of the catalog."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders (walked), or globs."""
    top_k: int = 5
    """Classes shown for each image."""
    json: bool = False
    """One JSON object per line: file, predictions [{class, name, probability}], or error."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Which weights of a run."""
    image_size: int | None = None
    """Side in pixels, if not the checkpoint's."""
    batch: int = 32
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "predict", DESCRIPTION)

    from rich.progress import track

    from convnext.classification.load import load_classifier
    from convnext.classification.predict import find_images, predict
    from convnext.train.distributed import choose_device
    from convnext.train.step import resolve_precision

    files = find_images(arguments.images)
    device = choose_device(arguments.device)
    classifier = load_classifier(fetched(arguments.model), device, arguments.weights, arguments.image_size)
    out, err = stdout(), stderr()
    err.print(
        f"[dim]{classifier.source}, {len(classifier.classes)} classes, {classifier.preprocess.size} px, {device}[/]"
    )
    predictions = predict(
        classifier, files, arguments.top_k, arguments.batch, resolve_precision(arguments.precision, device)
    )
    if len(files) > arguments.batch and err.is_terminal:
        predictions = track(predictions, "classifying", total=len(files), console=err, transient=True)
    rows, failed = [], 0
    for prediction in predictions:
        failed += prediction.error is not None
        if arguments.json:
            print(json.dumps(_as_dict(prediction, classifier)), flush=True)
        elif prediction.error:
            rows.append((prediction.path, "not readable", ""))
            err.print(f"[red]{prediction.error}[/]")
        else:
            for rank, (index, probability) in enumerate(prediction.top):
                rows.append(
                    (prediction.path if rank == 0 else "", classifier.names[index], f"{100 * probability:.1f} %")
                )
    if rows:
        print_table(out, table(("image", "class", "probability"), rows, left=2))
    return 2 if failed else 0


def _as_dict(prediction, classifier) -> dict:
    if prediction.error:
        return {"file": prediction.path, "error": prediction.error}
    top = [
        {"class": classifier.classes[index], "name": classifier.names[index], "probability": round(probability, 6)}
        for index, probability in prediction.top
    ]
    return {"file": prediction.path, "predictions": top}
