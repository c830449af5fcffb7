"""The sizes of differences from the reference that docs/fidelity.md states: masks and what a JPEG takes away.

    python benchmarks/fidelity.py --photos DIR --coco DIR --out results/fidelity.json

--coco is a folder in COCO's layout, from which 200 objects are taken; --photos a folder of images. The curves beside the
reference's own training loop are in tests/engine/test_reference_curves.py, frost is in benchmarks/frost.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from convnext import __version__
from convnext.benchmark.rows import commit
from convnext.data.corruptions import SEVERITIES, corrupt
from convnext.data.corruptions.pixels import RELEASED_QUALITY, through_jpeg
from convnext.data.corruptions.quality import psnr
from convnext.data.images import IMAGE_EXTENSIONS, decode
from convnext.detection.coco import open_coco_split
from convnext.detection.mask_head import mask_targets
from convnext.detection.transforms import TrainTransform

NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")


def masks(coco: Path, objects: int = 200) -> dict:
    """Masks resampled by the reference's rule and by ours: overlap, and cells of the 28 x 28 targets that differ."""
    images = open_coco_split(coco, "val")
    overlaps, cells = [], []
    for i in range(len(images)):
        if len(overlaps) >= objects:
            break
        image, target = images.image(i), images.target(i)
        if not len(target["boxes"]):
            continue
        both = []
        for rule in (True, False):
            torch.manual_seed(i)
            both.append(TrainTransform(hflip=0.0, crop=False, as_reference=rule)(image, target)[1])
        theirs, ours = ({tuple(b.tolist()): m for b, m in zip(t["boxes"], t["masks"], strict=True)} for t in both)
        boxes = [box for box in ours if box in theirs and (ours[box].any() or theirs[box].any())]
        if not boxes:
            continue
        order = torch.arange(len(boxes))
        cut = [mask_targets(torch.stack([m[b] for b in boxes]), torch.tensor(boxes), order) for m in (theirs, ours)]
        cells += (cut[0] != cut[1]).float().mean(dim=(1, 2)).tolist()
        overlaps += [((theirs[b] & ours[b]).sum() / (theirs[b] | ours[b]).sum()).item() for b in boxes]
    return {
        "objects": len(overlaps),
        "mean_iou": round(float(np.mean(overlaps)), 3),
        "least_iou": round(float(np.min(overlaps)), 2),
        "percent_of_cells": round(100 * float(np.mean(cells)), 1),
    }


def jpeg(photos: Sequence[Image.Image]) -> dict:
    """Decibels by which a JPEG of the released quality brings noisy photos nearer to the original, over all severities."""

    def gain(name: str, severity: int, number: int) -> float:
        noisy = corrupt(photos[number], name, severity, 0, str(number))
        return psnr(photos[number], through_jpeg(noisy, RELEASED_QUALITY)) - psnr(photos[number], noisy)

    numbers = range(len(photos))
    gains = {n: [np.mean([gain(n, severity, i) for i in numbers]) for severity in SEVERITIES] for n in NOISES}
    return {name: [round(float(value), 1) for value in values] for name, values in gains.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20, help="photos, in the order of their names")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)
    photos = [ImageOps.fit(decode(path), (224, 224), Image.Resampling.BICUBIC) for path in paths[: arguments.images]]
    record = {
        "what": "differences from the reference: masks of real objects, and JPEG 85 after noise",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": {"convnext": __version__, "torch": torch.__version__},
        "masks": masks(arguments.coco),
        "jpeg_gain_db": jpeg(photos),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(record["masks"], record["jpeg_gain_db"])


if __name__ == "__main__":
    main()
