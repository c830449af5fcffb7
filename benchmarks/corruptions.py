"""How fast the corruptions are on one core, and how strong: PSNR and SSIM of the corrupted photos.

    python benchmarks/corruptions.py --photos DIR --images 5 --out results/corruptions.json --sheet docs/corruptions.png

The photos are centre-cropped to 224 pixels. A rate is of whole calls of `corrupt` over all severities, after one pass
over the same photos that is not counted. Run it on an idle machine, with OMP_NUM_THREADS=1.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import PIL
import scipy
from PIL import Image, ImageOps

from convnext import __version__
from convnext.benchmark.rows import commit, cpu_name
from convnext.data.corruptions import ALL, IMAGENET_C, SEVERITIES, corrupt
from convnext.data.corruptions.quality import psnr, ssim
from convnext.data.images import IMAGE_EXTENSIONS, decode
from convnext.report.corruptions import draw_contact_sheet

SIDE = 224


def measure(photos: dict[str, Image.Image], name: str) -> dict:
    """Measure the rate of one corruption, and its mean PSNR and SSIM per severity."""

    def corrupted(severity: int) -> list[Image.Image]:
        return [corrupt(photo, name, severity, 0, image_id) for image_id, photo in photos.items()]

    psnrs, ssims = [], []
    for severity in SEVERITIES:
        pairs = list(zip(photos.values(), corrupted(severity), strict=True))
        psnrs.append(round(float(np.mean([psnr(*pair) for pair in pairs])), 2))
        ssims.append(round(float(np.mean([ssim(*pair) for pair in pairs])), 4))
    start = time.perf_counter()
    for severity in SEVERITIES:
        corrupted(severity)
    seconds = time.perf_counter() - start
    return {
        "images_per_second": round(len(SEVERITIES) * len(photos) / seconds, 1),
        "psnr_db": psnrs,
        "ssim": ssims,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=5, help="how many of them, in the order of their names")
    parser.add_argument("--out", type=Path, default=Path("results/corruptions.json"))
    parser.add_argument("--sheet", type=Path, help="also draw the first photo's contact sheet to this PNG")
    args = parser.parse_args(argv)

    paths = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)[: args.images]
    photos = {path.name: ImageOps.fit(decode(path), (SIDE, SIDE), Image.Resampling.BICUBIC) for path in paths}
    results = {}
    for name in ALL:
        results[name] = measure(photos, name)
        print(f"{name:28s}{results[name]['images_per_second']:8.1f} images/s   PSNR {results[name]['psnr_db']}")

    rates = {name: row["images_per_second"] for name, row in results.items()}
    record = {
        "what": "corruptions of photos centre-cropped to 224 px, one process, one core",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": f"{cpu_name()}, 1 of {os.cpu_count()} cores",
        "versions": {
            "convnext": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pillow": PIL.__version__,
        },
        "photos": list(photos),
        "images_per_second_over_imagenet_c": round(len(IMAGENET_C) / sum(1 / rates[name] for name in IMAGENET_C), 1),
        "slowest": min(rates, key=rates.__getitem__),
        "corruptions": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    if args.sheet:
        image_id, photo = next(iter(photos.items()))
        cells = {
            (name, s): corrupt(photo, name, s, 0, image_id) if s else photo for name in ALL for s in (0, *SEVERITIES)
        }
        draw_contact_sheet(cells, args.sheet)
    print(f"{record['images_per_second_over_imagenet_c']} images/s over ImageNet-C; wrote {args.out}")


if __name__ == "__main__":
    main()
