"""Decoders of JPEG files, ours beside others: from a file's bytes to the resized crop of a training step.

    python benchmarks/decoders.py --out results/decoders.json

Files of 500 x 375 and of 4000 x 3000 pixels are generated. All decoders get the same random crops (Table 5: 8 to 100 % of the
area) in turn, and their crops are resized to 224 px by the function of training, so what differs is the decoding. `scaled` ones
decode at 1/2, 1/4 or 1/8 of the size where the crop has pixels to spare, as ours does: by simplejpeg, after Pillow has read the
header with its orientation. Times are of the processor, one thread.
`difference` is the mean distance of the result to that of Pillow's full image, of values 0 to 255.

Decoders that are not installed are left out with a line. They are no part of the environment; installed by hand:

    uv pip install --target DIR --no-deps opencv-python-headless pyvips pyvips-binary cffi torchcodec
    PYTHONPATH=DIR python benchmarks/decoders.py --out results/decoders.json
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from convnext.benchmark.loading import generated, measure, one_thread
from convnext.benchmark.rows import environment
from convnext.classification.augment import random_crop, resize
from convnext.data.regions import Region, cut_array, decode_region
from convnext.recipes.schema import Augment

SIDE = 224
SIZES = ((500, 375, 24), (4000, 3000, 3))
"""Width, height and number of generated files."""
LIBRARIES = ("pillow", "simplejpeg", "pyvips", "torchvision", "torchcodec", "opencv-python-headless")

Size = tuple[int, int]
Decode = Callable[[bytes, Region, Size], np.ndarray]
"""From a file, a region of it and (width, height) of the whole to pixels (h, w, 3) uint8, perhaps scaled."""


def ours(file: bytes, region: Region, whole: Size) -> np.ndarray:
    return decode_region(file, lambda size: region)


def pillow(file: bytes, region: Region, whole: Size) -> np.ndarray:
    image = Image.open(BytesIO(file)).convert("RGB")
    return np.asarray(image.crop(region.box(whole, whole)))


def pillow_draft(file: bytes, region: Region, whole: Size) -> np.ndarray:
    image: Any = Image.open(BytesIO(file))
    image.draft("RGB", (whole[0] // region.shrink, whole[1] // region.shrink))
    return np.asarray(image.crop(region.box(whole, image.size)))


def of_tensor(pixels: torch.Tensor, region: Region) -> np.ndarray:
    """The region of an image (3, H, W)."""
    rows, columns = slice(region.top, region.top + region.height), slice(region.left, region.left + region.width)
    return pixels[:, rows, columns].permute(1, 2, 0).contiguous().numpy()


def with_simplejpeg() -> dict[str, Decode]:
    import simplejpeg

    def decode(file: bytes, region: Region, whole: Size) -> np.ndarray:
        least = {"min_width": -(-whole[0] // region.shrink), "min_height": -(-whole[1] // region.shrink)}
        return cut_array(simplejpeg.decode_jpeg(file, "RGB", **least), region, whole)

    return {"simplejpeg, scaled": decode}


def with_pyvips() -> dict[str, Decode]:
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    import pyvips  # pyright: ignore[reportMissingImports]

    pyvips.cache_set_max(0)  # the same files come again

    def decode(file: bytes, region: Region, whole: Size) -> np.ndarray:
        image = pyvips.Image.new_from_buffer(file, "", shrink=region.shrink, access="sequential")
        left, top, right, bottom = region.box(whole, (image.width, image.height))
        return image.crop(left, top, right - left, bottom - top).numpy()

    return {"pyvips, scaled": decode}


def with_opencv() -> dict[str, Decode]:
    import cv2

    cv2.setNumThreads(1)
    scaled = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

    def decode(file: bytes, region: Region, whole: Size) -> np.ndarray:
        flags = scaled.get(region.shrink, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
        image: Any = cv2.imdecode(np.frombuffer(file, np.uint8), flags)
        return cv2.cvtColor(np.ascontiguousarray(cut_array(image, region, whole)), cv2.COLOR_BGR2RGB)

    return {"OpenCV, scaled": decode}


def with_torchvision() -> dict[str, Decode]:
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(file: bytes, region: Region, whole: Size) -> np.ndarray:
        encoded = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        pixels: Any = decode_jpeg(encoded, ImageReadMode.RGB)
        return of_tensor(pixels, region)

    return {"torchvision.io, full": decode}


def with_torchcodec() -> dict[str, Decode]:
    from torchcodec.decoders import decode_jpeg  # pyright: ignore[reportMissingImports]

    return {"torchcodec, full": lambda file, region, whole: of_tensor(decode_jpeg(file), region)}


def decoders() -> tuple[dict[str, Decode], dict[str, str]]:
    """The decoders that are here by name, and why the others are not."""
    found: dict[str, Decode] = {"ours": ours, "Pillow, full": pillow, "Pillow, draft": pillow_draft}
    left_out = {}
    for make in (with_simplejpeg, with_pyvips, with_opencv, with_torchvision, with_torchcodec):
        try:
            found |= make()
        except (ImportError, OSError, RuntimeError) as error:  # a library of C that lacks another one
            left_out[make.__name__.removeprefix("with_")] = str(error).partition("\n")[0]
    return found, left_out


def compare(found: dict[str, Decode], size: tuple[int, int, int], crops: int, rounds: int) -> dict[str, dict]:
    """One row for each decoder: milliseconds, images per second, their ratio to ours, and the difference to Pillow's values."""
    width, height, count = size
    whole, scale = (width, height), Augment().crop_scale
    files = generated(count, width, height) * crops
    random.seed(0)
    regions = [Region(*random_crop(whole, scale), (SIDE, SIDE)) for _ in files]

    def views(decode: Decode) -> list[torch.Tensor]:
        return [
            resize(decode(file, region, whole), SIDE, "bicubic") for file, region in zip(files, regions, strict=True)
        ]

    with one_thread():
        expected = torch.stack(views(pillow)).int()
        distance = {
            name: (torch.stack(views(decode)).int() - expected).abs().float().mean() for name, decode in found.items()
        }
    rows = measure({name: lambda _, each=each: views(each) for name, each in found.items()}, files, rounds)
    for name, row in rows.items():
        row["to_ours"] = round(row["images_per_second"] / rows["ours"]["images_per_second"], 3)
        row["difference"] = round(float(distance[name]), 2)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=4, help="of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="two files of each size, an eighth as large")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    found, left_out = decoders()
    for name, why in left_out.items():
        print(f"left out: {name} ({why})")
    sizes = [(width // 8, height // 8, 2) for width, height, _ in SIZES] if arguments.small else SIZES
    result: dict[str, Any] = {}
    for size in sizes:
        name = f"{size[0]}x{size[1]}"
        result[name] = rows = compare(found, size, arguments.crops, arguments.rounds)
        print(f"{name}: {size[2]} files, {arguments.crops} crops of each")
        for decoder, row in rows.items():
            print(
                f"  {decoder:22} {row['milliseconds']['p50']:8.2f} ms {row['images_per_second']:8.1f} images/s "
                f"{row['to_ours']:6.2f} of ours, difference {row['difference']}"
            )
    if arguments.out:
        facts = environment(torch.device("cpu"))
        for library in LIBRARIES:
            with suppress(PackageNotFoundError):
                facts["versions"][library] = version(library)
        facts |= {
            "what": f"decoding of JPEG files, random crop, resized to {SIDE} px; processor time, one thread, in turn",
            "command": " ".join(["python", *sys.argv]),
            "crops": arguments.crops,
            "rounds": arguments.rounds,
            "left_out": left_out,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(facts | {"sizes": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
