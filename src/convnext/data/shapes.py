"""Drawn images whose objects are known to the pixel: circles, rectangles and triangles, for tests and first runs.

Later shapes cover earlier ones, so masks are what is visible, and boxes are drawn around that.
"""

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.data.formats.coco_file import SEGMENTATION

SHAPES = ("circle", "rectangle", "triangle")
CATEGORY_IDS = (1, 3, 7)
"""With gaps, as COCO's own."""
SEMANTIC = ("background", *SHAPES)


@dataclass
class Scene:
    """image (h, w, 3) uint8; of n objects: labels (n,) into `SHAPES`, masks (n, h, w) bool, crowd (n,) bool."""

    picture: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    crowd: np.ndarray


def draw_scene(seed: int, index: int, size: int, objects: int = 5, crowds: float = 0.15) -> Scene:
    """Scene `index`: a textured background, 1 to `objects` shapes and, with a probability of `crowds`, a crowd of dots.

    Images are `size` pixels on the long side, and 3/4 of it on the other one unless they are square.
    """
    rng = np.random.default_rng((seed, index))
    height, width = ((size, size), (size, size * 3 // 4), (size * 3 // 4, size))[rng.integers(3)]
    y, x = np.mgrid[:height, :width] + 0.5
    image = _texture(rng, height, width)
    labels, masks = [], []
    count = int(rng.integers(1, objects + 1))
    has_crowd = rng.random() < crowds
    for k in range(count + has_crowd):
        label = 0 if k == count else int(rng.integers(len(SHAPES)))
        mask = _dots(rng, x, y) if k == count else _shape(rng, label, x, y)
        for other in masks:
            other &= ~mask
        labels.append(label)
        masks.append(mask)
        color = rng.integers(0, 256, 3)
        while np.abs(color - image[mask].mean(axis=0)).max() < 80:
            color = rng.integers(0, 256, 3)
        image[mask] = color + rng.normal(0, 8, (int(mask.sum()), 3))
    crowd = np.arange(len(masks)) == count
    seen = [k for k, mask in enumerate(masks) if mask.sum() >= 12]
    image = image.clip(0, 255).astype(np.uint8)
    return Scene(image, np.array(labels)[seen], np.stack(masks)[seen], crowd[seen])


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(h, w, 3) float: smooth blotches and grain."""
    blotches = Image.fromarray(rng.integers(40, 216, (5, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    return np.asarray(blotches, dtype=float) + rng.normal(0, 12, (height, width, 3))


def _shape(rng: np.random.Generator, label: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(h, w) bool: one shape that lies inside the image."""
    height, width = x.shape
    radius = max(4.0, rng.uniform(0.08, 0.25) * min(height, width))
    cx, cy = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if label == 0:
        return (x - cx) ** 2 + (y - cy) ** 2 < radius**2
    if label == 1:
        half_width, half_height = radius * rng.uniform(0.5, 1, 2)
        return (np.abs(x - cx) < half_width) & (np.abs(y - cy) < half_height)
    angles = rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
    px, py = cx + radius * np.cos(angles), cy + radius * np.sin(angles)
    inside = np.ones_like(x, dtype=bool)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        inside &= (px[b] - px[a]) * (y - py[a]) - (py[b] - py[a]) * (x - px[a]) > 0
    return inside


def _dots(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(h, w) bool: twelve small discs near each other."""
    height, width = x.shape
    reach, radius = 0.2 * min(height, width), 0.03 * min(height, width)
    center = rng.uniform(reach, [width - reach, height - reach])
    dots = center + rng.uniform(radius - reach, reach - radius, (12, 2))
    return (((x - dots[:, 0, None, None]) ** 2 + (y - dots[:, 1, None, None]) ** 2) < radius**2).any(axis=0)


def box(mask: np.ndarray) -> list[int]:
    """(h, w) bool -> x, y, w, h of the pixels that are set."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def run_lengths(mask: np.ndarray) -> dict:
    """(h, w) bool -> COCO's uncompressed RLE: lengths of runs down the columns, the first of pixels that are not set."""
    flat = mask.ravel(order="F")
    counts = [len(list(run)) for _, run in groupby(flat.tolist())]
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def outline(mask: np.ndarray) -> list[list[int]] | None:
    """(h, w) bool -> the polygon along the pixels' edges, which covers them exactly; None: it takes more than one.

    Every row of the mask must be one run that touches the next row's.
    """
    corners_left, corners_right, last = [], [], None
    rows = np.flatnonzero(mask.any(axis=1))
    for row in rows:
        columns = np.flatnonzero(mask[row])
        left, right = int(columns[0]), int(columns[-1]) + 1
        apart = last is not None and (row != last[0] + 1 or left >= last[2] or right <= last[1])
        if len(columns) != right - left or apart:
            return None
        corners_left += [(left, int(row)), (left, int(row) + 1)]
        corners_right += [(right, int(row)), (right, int(row) + 1)]
        last = row, left, right
    return [[value for corner in corners_left + corners_right[::-1] for value in corner]]


def write_shapes(folder: str | Path, images: int = 48, val_images: int = 16, size: int = 128, seed: int = 0) -> Path:
    """Write a data set in COCO's layout: train/, val/ and annotations/instances_{train,val}.json.

    Circles and what has no simple outline are run lengths, the rest polygons; crowds are there, too.
    """
    folder = Path(folder)
    for part, numbers in _parts(images, val_images):
        content: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": key, "name": name} for key, name in zip(CATEGORY_IDS, SHAPES, strict=True)],
        }
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            scene, name = draw_scene(seed, number, size), f"{number:06}.png"
            Image.fromarray(scene.picture).save(folder / part / name)
            height, width = scene.picture.shape[:2]
            content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
            for label, mask, crowd in zip(scene.labels, scene.masks, scene.crowd, strict=True):
                polygon = None if label == 0 else outline(mask)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": CATEGORY_IDS[label],
                        "bbox": box(mask),
                        "area": int(mask.sum()),
                        "iscrowd": int(crowd),
                        SEGMENTATION: polygon or run_lengths(mask),
                    }
                )
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return folder


def write_shapes_semantic(
    folder: str | Path, images: int = 48, val_images: int = 16, size: int = 128, seed: int = 0
) -> Path:
    """Write the same images in ADE20K's layout: {images,annotations}/{training,validation}/ and classes.txt.

    The annotations are PNG: 0 is unlabelled, here the dots of crowds, and k is line k of classes.txt, which is `SEMANTIC`.
    """
    folder = Path(folder)
    for part, numbers in _parts(images, val_images):
        part = {"train": "training", "val": "validation"}[part]
        for kind in ("images", "annotations"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            scene = draw_scene(seed, number, size)
            labels = np.ones(scene.picture.shape[:2], dtype=np.uint8)
            for label, mask, crowd in zip(scene.labels, scene.masks, scene.crowd, strict=True):
                labels[mask] = 0 if crowd else label + 2
            Image.fromarray(scene.picture).save(folder / "images" / part / f"{number:06}.png")
            Image.fromarray(labels).save(folder / "annotations" / part / f"{number:06}.png")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in SEMANTIC))
    return folder


def _parts(images: int, val_images: int) -> tuple[tuple[str, range], tuple[str, range]]:
    return ("train", range(1, images + 1)), ("val", range(images + 1, images + val_images + 1))
