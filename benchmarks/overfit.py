"""Detectors and the segmenter learn 20 photos of COCO by heart, from random weights, on a CPU in under 15 minutes.

    python benchmarks/overfit.py segmentation --data COCO_MINI --out results/overfit_segmentation.json
    python benchmarks/overfit.py mask_rcnn --data COCO_MINI --out results/overfit_mask_rcnn.json
    python benchmarks/overfit.py cascade_mask_rcnn --data COCO_MINI --out results/overfit_cascade_mask_rcnn.json

The test that every part of a dense model and of its training works: data, heads, losses, schedule, evaluation. The photos
are those of the training part whose objects are largest; they are trained on and evaluated. --run keeps the run's folder, so
that a stopped one continues.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from convnext import __version__, recipes
from convnext.benchmark.rows import commit
from convnext.files import to_json
from convnext.recipes.schema import (
    DenseModel,
    DetectionAugment,
    PolyOptim,
    Recipe,
    Runtime,
    SegmentationAugment,
    Segmenter,
    StepOptim,
)
from convnext.training import train


def chosen(coco: Path, number: int) -> dict:
    """Annotations of the photos whose smallest object is the largest share of the image; at 256 px the others have objects
    of a few pixels, for which 15 minutes on a CPU are not enough."""
    whole = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    smallest = {}
    pixels = {image["id"]: image["width"] * image["height"] for image in whole["images"]}
    for a in whole["annotations"]:
        share = 0.0 if a["iscrowd"] else a["area"] / pixels[a["image_id"]]
        smallest[a["image_id"]] = min(share, smallest.get(a["image_id"], 1.0))
    ids = sorted(smallest, key=lambda i: (-smallest[i], i))[:number]
    images = [image for image in whole["images"] if image["id"] in ids]
    return {**whole, "images": images, "annotations": [a for a in whole["annotations"] if a["image_id"] in ids]}


def make_view(task: str, coco: Path, folder: Path, number: int) -> str:
    """Write a dataset of these photos alone, whose validation part is its training part; returns its folder."""
    annotations = chosen(coco, number)
    names = [image["file_name"] for image in annotations["images"]]
    for part in ("train", "val"):
        images = folder / "images" / part if task == "segmentation" else folder / part
        images.mkdir(parents=True)
        for name in names:
            (images / name).symlink_to((coco / "train2017" / name).resolve())
        if task == "segmentation":
            masks = folder / "masks" / part
            masks.mkdir(parents=True)
            for name in names:
                png = Path(name).with_suffix(".png")
                (masks / png).symlink_to((coco / "semantic" / "train2017" / png).resolve())
        else:
            (images / "_annotations.coco.json").write_text(json.dumps(annotations))
    if task == "segmentation":
        (folder / "classes.json").write_text((coco / "semantic" / "classes.json").read_text())
    return str(folder)


def make_recipe(task: str, data: str, length: int | None, short: int, warmup: int | None) -> Recipe:
    """The recipe that 15 minutes on two cores allow: a small backbone, small images without augmentation, few proposals."""
    runtime = Runtime(workers=0, log_every=10, device="cpu", checkpoint_minutes=60.0)
    if task == "segmentation":
        return replace(
            recipes.get("ade20k/upernet-tiny"),
            data=data,
            total_batch=4,
            device_batch=4,
            steps=length or 420,
            eval_every=10_000,
            model=Segmenter(
                "upernet_convnext_atto",
                drop_path_rate=0.0,
                layer_scale_init_value=0.0,
                channels=128,
                auxiliary_channels=64,
            ),
            augment=SegmentationAugment(
                short=short, long=4 * short, crop=short, scale=(1.0, 1.0), max_share=1.0, hflip=0.0, photometric=False
            ),
            optim=PolyOptim(lr=3e-3, warmup_steps=warmup or 30, power=1.0),
            runtime=runtime,
        )
    epochs = length or {"mask_rcnn": 40, "cascade_mask_rcnn": 37}[task]
    milestones = tuple(dict.fromkeys(max(1, int(share * epochs)) for share in (0.7, 0.9)))
    return replace(
        recipes.get("coco/mask-rcnn-tiny" if task == "mask_rcnn" else "coco/cascade-tiny"),
        data=data,
        total_batch=2,
        device_batch=2,
        epochs=epochs,
        eval_every=10_000,
        model=DenseModel(f"{task}_convnext_atto", drop_path_rate=0.0, layer_scale_init_value=0.0),
        augment=DetectionAugment(short_sides=(short,), long=2 * short, hflip=0.0, random_crop=False),
        optim=StepOptim(lr=5e-4, warmup_steps=warmup or 40, milestones=milestones, clip_grad=10.0),
        test_short=short,
        test_long=2 * short,
        rpn_samples=128,
        roi_samples=32 if task == "mask_rcnn" else 16,
        runtime=runtime,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("segmentation", "mask_rcnn", "cascade_mask_rcnn"))
    parser.add_argument("--data", type=Path, required=True, help="a folder like coco-mini")
    parser.add_argument("--length", type=int, help="steps (segmentation) or epochs")
    parser.add_argument("--warmup", type=int, help="steps")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--short", type=int, default=256, help="short side in pixels")
    parser.add_argument("--run", type=Path, help="folder of the run; a temporary one if not given")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        data = make_view(arguments.task, arguments.data, Path(scratch) / "photos", arguments.photos)
        recipe = make_recipe(arguments.task, data, arguments.length, arguments.short, arguments.warmup)
        folder = arguments.run or Path(scratch) / "run"
        began = time.monotonic()
        records = train(recipe, out=folder).records
        seconds = time.monotonic() - began
    evaluated = [r for r in records if r["kind"] == "eval"][-1]
    result = {
        "what": f"{recipe.model.name} on the {arguments.photos} photos of coco-mini with the largest "
        "objects, trained on and evaluated; "
        "random initial weights",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {"convnext": __version__, "torch": torch.__version__},
        "minutes": round(seconds / 60, 2),
        "steps": evaluated["step"],
        "metrics": {k.removeprefix("raw/"): round(v, 2) for k, v in evaluated.items() if k.startswith("raw/")},
        "loss": [(r["step"], round(r["loss"], 4)) for r in records if r["kind"] == "train"],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(to_json(result) + "\n")
    print(result["minutes"], "minutes", result["metrics"])


if __name__ == "__main__":
    main()
