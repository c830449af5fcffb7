"""How much it matters that our spatter finds the edges of drops without OpenCV.

    python benchmarks/spatter.py --photos DIR --out results/spatter.json

Each photo is cropped to 224 px and spattered twice with the same drops, by our relief of them and by one from OpenCV's Canny
filter, chamfer distance and equalised histogram, as the generator of ImageNet-C has it. OpenCV is no dependency of the
project: install opencv-python-headless for this script.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import numpy as np
from PIL import ImageOps

from convnext import __version__
from convnext.benchmark.rows import commit
from convnext.data.corruptions import corrupt, weather
from convnext.data.corruptions.quality import psnr, ssim
from convnext.data.images import IMAGE_EXTENSIONS, decode

SIDE = 224
LIGHT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float32)


def opencv_relief(drops: np.ndarray) -> np.ndarray:
    """The relief of drops (h,w) from OpenCV's filters."""
    import cv2

    edges = cv2.Canny((drops * 255).astype(np.uint8), 50, 150)
    distance = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
    near = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    lit = cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, LIGHT)
    return cv2.blur(lit, (3, 3)).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of images")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    import cv2

    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)
    photos = [ImageOps.fit(decode(path), (SIDE, SIDE)) for path in paths]
    rows = {}
    for severity in (1, 2, 3):  # 4 and 5 are mud, without edges
        found = []
        for number, (photo, seed) in enumerate((p, s) for p in photos for s in range(arguments.seeds)):
            ours = corrupt(photo, "spatter", severity, seed, number)
            with patch.object(weather, "_relief", opencv_relief):
                theirs = corrupt(photo, "spatter", severity, seed, number)
            found.append(
                (psnr(photo, ours), psnr(photo, theirs), ssim(photo, ours), ssim(photo, theirs), psnr(ours, theirs))
            )
        names = ("psnr_ours", "psnr_opencv", "ssim_ours", "ssim_opencv", "psnr_between")
        rows[str(severity)] = dict(
            zip(names, (round(mean(column), 4) for column in zip(*found, strict=True)), strict=True)
        )
        print(severity, rows[str(severity)], flush=True)
    result = {
        "what": f"spatter on {len(photos)} photos at {SIDE} px, {arguments.seeds} seeds each",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"convnext": __version__, "opencv": cv2.__version__},
        "severities": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
