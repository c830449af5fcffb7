"""A classifier of several labels per image learns coloured shapes from random weights: mAP in minutes on a CPU.

    python benchmarks/multi_label.py --out results/multi_label.json

Each image of 32 px has a noisy background and any of six shapes; which of them are there is known, the thresholds are
chosen on the held-out images, and the metrics are those of `convnext evaluate` on images that were neither trained on nor
held out. Both losses, in turn.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from convnext import __version__, recipes
from convnext.benchmark.rows import commit
from convnext.files import to_json
from convnext.recipes.schema import Augment, Classification, Model, Optim, Runtime
from convnext.training import train

SIZE, SIDE = 32, 9
SHARES = {
    "red disc": 0.5,
    "red square": 0.3,
    "blue disc": 0.3,
    "blue square": 0.2,
    "green bar": 0.15,
    "black cross": 0.1,
}
"""Share of the images that have each shape."""


def draw(labels: np.ndarray, generator: np.random.Generator) -> Image.Image:
    """An image with one shape for each label that is true, at places of a grid of 3 x 3."""
    image = Image.fromarray(generator.normal(150, 25, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    places = generator.permutation(9)
    for (name, there), place in zip(zip(SHARES, labels, strict=True), places, strict=False):
        if not there:
            continue
        colour, form = name.split()
        x, y = (int(v) * 10 + int(generator.integers(1, 3)) for v in divmod(int(place), 3))
        box = (x, y, x + SIDE - 2, y + SIDE - 2)
        if form == "disc":
            canvas.ellipse(box, fill=colour)
        elif form == "square":
            canvas.rectangle(box, fill=colour)
        elif form == "bar":
            canvas.rectangle((x, y + 2, x + SIDE - 2, y + 5), fill=colour)
        else:
            canvas.line(box, fill=colour, width=3)
            canvas.line((box[0], box[3], box[2], box[1]), fill=colour, width=3)
    return image


def write_set(folder: Path, images: int, seed: int, part: str = "") -> Path:
    """`folder/labels.csv` with a column of 0 and 1 for each shape, and the images; all in `part`, if any."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", *SHARES, *(["split"] if part else [])])
        for i in range(images):
            labels = generator.random(len(SHARES)) < list(SHARES.values())
            draw(labels, generator).save(folder / f"{i:05}.png")
            table.writerow([f"{i:05}.png", *labels.astype(int), *([part] if part else [])])
    return folder / "labels.csv"


def make_recipe(data: Path, epochs: int, loss: str) -> Classification:
    """Small enough for two minutes on two cores."""
    return replace(
        recipes.get("small/scratch"),
        data=str(data),
        epochs=epochs,
        eval_every=4,
        total_batch=64,
        device_batch=64,
        multi_label_loss=loss,
        model=Model("convnext_atto", drop_path_rate=0.0, layer_scale_init_value=0.0, stem_stride=4),
        augment=Augment(
            crop_padding=1, rand_augment=None, random_erasing=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0
        ),
        optim=Optim(lr=2e-3, warmup_epochs=None, warmup_share=0.1),
        runtime=Runtime(workers=0, log_every=20, device="cpu"),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000, help="to train on, a tenth of them held out")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--losses", nargs="+", default=["bce", "asymmetric"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = write_set(Path(scratch) / "train", arguments.images, 0)
        fresh = write_set(Path(scratch) / "fresh", max(arguments.images // 4, 20), 1, "val")
        for loss in arguments.losses:
            began = time.monotonic()
            run = train(make_recipe(data, arguments.epochs, loss), out=Path(scratch) / loss)
            seconds = time.monotonic() - began
            found = run.load().evaluate(fresh)
            rows[loss] = {
                "minutes": round(seconds / 60, 2),
                "images": found.images,
                **{key: round(value, 4) for key, value in next(iter(found.metrics.values())).items()},
                "per_class": next(iter(found.details["per_class"].values())),
            }
    result = {
        "what": f"{arguments.images:,} generated images of {SIZE} px with up to {len(SHARES)} labels each, convnext_atto from "
        f"random weights, {arguments.epochs} epochs; measured on other images",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {"convnext": __version__, "torch": torch.__version__},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(to_json(result) + "\n")
    for loss, row in rows.items():
        print(loss, row["minutes"], "minutes, mAP", row["map"])


if __name__ == "__main__":
    main()
