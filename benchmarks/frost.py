"""How strong our frost textures are beside the photographs of ImageNet-C, and how far frosted photos are from the original.

    python benchmarks/frost.py --originals DIR --photos DIR --out results/frost.json

The originals are frost1.png to frost5.jpg of ImageNet-C's generator (the folder `frost` of the package imagecorruptions);
they are not part of this project. Each photo is cropped to 224 px and frosted with random parts of both sets of textures.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from convnext import __version__
from convnext.benchmark.rows import commit
from convnext.data.corruptions import textures
from convnext.data.corruptions.parameters import PARAMETERS
from convnext.data.corruptions.pixels import to_image, to_pixels
from convnext.data.corruptions.quality import psnr, ssim
from convnext.data.images import IMAGE_EXTENSIONS, decode

NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
SIDE = 224


def strength(texture: np.ndarray, edge: str) -> dict:
    """Mean colour, and the deviations of coarse, middle and fine structure, in levels of 8 bits."""
    levels = texture * 255
    deviations = [float(band.std()) for band in textures.frost_bands(levels.mean(axis=2), edge)]
    return {"mean": [round(float(m)) for m in levels.mean(axis=(0, 1))], "bands": [round(d, 1) for d in deviations]}


def frosted(photo: Image.Image, texture: np.ndarray, severity: int, rng: np.random.Generator) -> Image.Image:
    """A photo with a random part of a texture over it, as the published corruption mixes them."""
    top, left = (int(rng.integers(0, side - SIDE)) for side in texture.shape[:2])
    keep, ice = PARAMETERS["frost"][severity - 1].values()
    return to_image(keep * to_pixels(photo) + ice * texture[top : top + SIDE, left : left + SIDE])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of images")
    parser.add_argument("--draws", type=int, default=4, help="parts of each texture over each photo")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)
    photos = [ImageOps.fit(decode(path), (SIDE, SIDE), Image.Resampling.BICUBIC) for path in paths]
    sets = {
        "original": [to_pixels(decode(arguments.originals / name)) for name in NAMES],
        "ours": [textures.frost(i) for i in range(textures.FROSTS)],
    }
    rows = {}
    for name, each in sets.items():
        pairs = {severity: [] for severity in range(1, 6)}
        rng = np.random.default_rng(0)
        for severity, texture, photo in ((s, t, p) for s in pairs for t in each for p in photos * arguments.draws):
            result = frosted(photo, texture, severity, rng)
            pairs[severity].append((ssim(photo, result), psnr(photo, result)))
        rows[name] = {
            "textures": [strength(texture, "wrap" if name == "ours" else "reflect") for texture in each],
            "ssim": [round(float(np.mean([s for s, _ in found])), 4) for found in pairs.values()],
            "psnr_db": [round(float(np.mean([p for _, p in found])), 2) for found in pairs.values()],
        }
        print(name, rows[name])
    record = {
        "what": f"frost over {len(photos)} photos of {SIDE} px, {arguments.draws} parts of each of five textures",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": {"convnext": __version__, "numpy": np.__version__},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
