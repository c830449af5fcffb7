"""Detectors of Table 3 beside those with Swin and ResNet backbones under the same heads, and torchvision's Mask R-CNN.

    python benchmarks/detector_speed.py --out results/detector_speed.json

All with random weights, in fp32, in turn on the same 800x1280 images, on the CPU. All are primed to find 100 objects among
1,000 proposals, so that suppression, masks and pasting are in the time. The FLOPs are those of what ran, counted by PyTorch.
Run it on an idle machine.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

import convnext
from convnext.benchmark.paper_peers import BACKBONES
from convnext.benchmark.rows import environment
from convnext.detection.priming import SURE, prime
from convnext.ops.backend import backend
from convnext.task.names import MARK as BACKBONE

OURS = (
    "mask_rcnn_convnext_tiny",
    "mask_rcnn+timm:swin_tiny_patch4_window7_224",
    "cascade_mask_rcnn_convnext_tiny",
    "cascade_mask_rcnn+timm:swin_tiny_patch4_window7_224",
    "cascade_mask_rcnn+timm:resnet50",
)
THEIRS = "torchvision:maskrcnn_resnet50_fpn_v2"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--models", nargs="+", default=OURS, help="ours")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    height, width = arguments.size
    torch.manual_seed(0)
    models = {name: prime(convnext.create_model(name)).eval() for name in arguments.models}
    models[THEIRS] = maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, min_size=min(height, width), max_size=max(height, width)
    ).eval()
    with torch.no_grad():
        models[THEIRS].roi_heads.box_predictor.cls_score.weight.mul_(SURE / 10)  # drawn with a larger deviation
    images = torch.rand(arguments.rounds + 1, 3, height, width)

    def run(name: str, number: int):
        image = images[number : number + 1]  # ours takes a batch, torchvision's a list, which it normalises itself
        found = models[name](list(image) if name == THEIRS else (image - 0.45) / 0.225)
        objects[name] = len(found[0]["boxes"])
        return found

    objects: dict[str, int] = {}

    seconds: dict[str, list[float]] = {name: [] for name in models}
    rows = {}
    with torch.inference_mode():
        for name in models:
            with backend("reference"), FlopCounterMode(display=False) as counter:
                run(name, 0)
            rows[name] = {"gmacs": round(counter.get_total_flops() / 2e9, 1)}
        for number in range(1, arguments.rounds + 1):
            for name in models:
                start = perf_counter()
                run(name, number)
                seconds[name].append(perf_counter() - start)
    for name, row in rows.items():
        row["seconds"] = {"p50": round(median(seconds[name]), 3), "all": [round(s, 3) for s in seconds[name]]}
        row |= {"objects": objects[name], "forced": True}
        if BACKBONE in name:
            heads, _, body = name.partition(BACKBONE)
            row |= {"heads": heads, "backbone": next(label for label, timm in BACKBONES.items() if timm == body)}
        row["params"] = sum(p.numel() for p in models[name].parameters())
        row["speed_to_torchvision"] = round(
            median(a / b for a, b in zip(seconds[THEIRS], seconds[name], strict=True)), 3
        )
        row["gmacs_to_torchvision"] = round(row["gmacs"] / rows[THEIRS]["gmacs"], 3)
    result = environment(torch.device("cpu")) | {
        "what": f"one {height}x{width} image, fp32, random weights primed to find 100 objects, in turn, medians of rounds",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:52} {row['seconds']['p50']:7.2f} s {row['gmacs']:7.1f} GMACs  "
              f"speed x {row['speed_to_torchvision']:.2f}  MACs x {row['gmacs_to_torchvision']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
