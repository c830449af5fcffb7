"""How many images a second one core prepares: each part of the loading and the whole, beside timm and torchvision."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convnext.benchmark.throughput import spread
from convnext.classification.augment import Finish, TrainTransform, collate_augmented, resize
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.data.cache import CachedImages, ImageCache, create_file
from convnext.data.images import decode
from convnext.data.regions import Choose, decode_region
from convnext.recipes.schema import Augment

BATCH = 16
"""Images that are normalised together."""

Work = Callable[[Sequence[bytes]], object]


def generated(count: int, width: int, height: int, seed: int = 0) -> list[bytes]:
    """JPEG files of noise with the spectrum of photos: the amplitude of a frequency falls as it rises."""
    numbers, files = np.random.default_rng(seed), []
    for _ in range(count):
        image = np.zeros((height, width, 3), dtype=np.float32)
        for octave in range(8):
            shape = (min(2 ** (octave + 2), height), min(2 ** (octave + 2), width))
            for channel in range(3):
                noise = Image.fromarray(numbers.normal(0, 0.55**octave, shape).astype(np.float32))
                image[..., channel] += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        file = BytesIO()
        Image.fromarray((128 + 60 * image).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def works(files: Sequence[bytes], pre: Preprocess, augment: Augment) -> dict[str, Work]:
    """Measured functions by name; each takes the encoded images.

    `ours ..: part` are parts of `ours, training`, with what comes before them done already.
    """
    transform, finish, evaluated = TrainTransform(pre, augment), Finish(pre), eval_transform(pre)

    def pixels(file: bytes) -> np.ndarray:
        return decode_region(file, transform.region)

    def trained(files: Sequence[bytes]) -> None:
        for i in range(0, len(files), BATCH):
            batch = collate_augmented([(transform(pixels(file)), 0, 0, []) for file in files[i : i + BATCH]])
            assert batch.erase is not None
            finish(batch.images, batch.erase)

    cut = [pixels(file) for file in files]
    views = [resize(region, pre.size, pre.interpolation) for region in cut]
    pictures = [Image.fromarray(view.contiguous().numpy()) for view in views]
    batch = collate_augmented([(transform(region), 0, 0, []) for region in cut[:BATCH]])
    times = -(-len(files) // BATCH)
    assert batch.erase is not None
    erase = batch.erase
    coloured = transform.rand_augment or (lambda image: image)
    return {
        "ours, training": trained,
        "ours, training, cache warm": cached(files, transform, finish),
        "ours, part: decode the crop": lambda files: [pixels(file) for file in files],
        "ours, part: resize": lambda _: [resize(region, pre.size, pre.interpolation) for region in cut],
        "ours, part: RandAugment": lambda _: [coloured(picture) for picture in pictures],
        "ours, part: normalise and erase": lambda _: [finish(batch.images, erase) for _ in range(times)],
        **_timm(pre, augment),
        **_torchvision(pre, augment),
        "ours, evaluation": lambda files: [evaluated(decode(file)) for file in files],
    }


def cached(files: Sequence[bytes], transform: TrainTransform, finish: Finish, side: int = 512) -> Work:
    """Training from a cache of decoded images (`--runtime.cache`) that holds all of them."""

    class Encoded:
        def stamp(self, i: int) -> int:
            return i

        def region(self, i: int, choose: Choose) -> np.ndarray:
            return decode_region(files[i], choose)

    with TemporaryDirectory() as folder:  # an open file outlives its name
        create_file(Path(folder) / "cache", len(files), side)
        images = CachedImages(Encoded(), ImageCache(Path(folder) / "cache", len(files), side), side)
    for i in range(len(files)):
        images.region(i, transform.region)

    def trained(files: Sequence[bytes]) -> None:
        for first in range(0, len(files), BATCH):
            chosen = range(first, min(first + BATCH, len(files)))
            batch = collate_augmented([(transform(images.region(i, transform.region)), 0, 0, []) for i in chosen])
            assert batch.erase is not None
            finish(batch.images, batch.erase)

    return trained


def _timm(pre: Preprocess, augment: Augment) -> dict[str, Work]:
    """timm's transforms with the same settings; in `8 bits` as `create_loader` has them with its prefetcher."""
    from timm.data.loader import PrefetchLoader
    from timm.data.transforms_factory import create_transform

    common = {"input_size": pre.size, "mean": pre.mean, "std": pre.std, "interpolation": pre.interpolation}
    training = common | {"is_training": True, "scale": augment.crop_scale, "hflip": augment.hflip, "color_jitter": None}
    training |= {"auto_augment": augment.rand_augment, "re_prob": augment.random_erasing, "re_mode": "pixel"}
    plain: Any = create_transform(**training)
    eight_bits: Any = create_transform(**training, use_prefetcher=True)
    evaluated: Any = create_transform(**common, crop_pct=pre.crop_ratio)

    def prefetched(files: Sequence[bytes]) -> None:
        for i in range(0, len(files), BATCH):
            views = [np.asarray(eight_bits(_opened(file))) for file in files[i : i + BATCH]]
            stacked = torch.from_numpy(np.stack(views))
            loader: Any = [(stacked, torch.zeros(len(views)))]
            options = {"device": torch.device("cpu"), "re_prob": augment.random_erasing, "re_mode": "pixel"}
            for _ in PrefetchLoader(loader, pre.mean, pre.std, **options):
                pass

    return {
        "timm, training": lambda files: [plain(_opened(file)) for file in files],
        "timm, training, 8 bits": prefetched,
        "timm, evaluation": lambda files: [evaluated(_opened(file)) for file in files],
    }


def _torchvision(pre: Preprocess, augment: Augment) -> dict[str, Work]:
    """torchvision's transforms v2, whose RandAugment has another scale of magnitudes, and no bicubic filter on
    tensors; on PIL images and on tensors."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    mode = v2.InterpolationMode(pre.interpolation)
    crop = v2.RandomResizedCrop(pre.size, scale=augment.crop_scale, interpolation=mode)
    colours = [v2.RandAugment(magnitude=9, interpolation=v2.InterpolationMode.BILINEAR)] if augment.rand_augment else []
    ending = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(pre.mean), list(pre.std))]
    erasing = [v2.RandomErasing(augment.random_erasing)] if augment.random_erasing else []
    train = v2.Compose([crop, v2.RandomHorizontalFlip(augment.hflip), *colours, *ending, *erasing])
    evaluated = v2.Compose([v2.Resize(int(pre.size / pre.crop_ratio), mode), v2.CenterCrop(pre.size), *ending])

    def tensor(file: bytes) -> Tensor:
        return decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8), ImageReadMode.RGB)

    return {
        "torchvision, training, on PIL": lambda files: [train(_opened(file)) for file in files],
        "torchvision, training, on tensors": lambda files: [train(tensor(file)) for file in files],
        "torchvision, evaluation": lambda files: [evaluated(tensor(file)) for file in files],
    }


def _opened(file: bytes) -> Image.Image:
    return Image.open(BytesIO(file)).convert("RGB")


@contextmanager
def one_thread():
    """One thread, and no word about torchvision's decoders, which move to another package."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        torch.set_num_threads(before)


def measure(
    works: dict[str, Work],
    files: Sequence[bytes],
    rounds: int,
    clock: Callable[[], float] = process_time,
    show: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, dict]:
    """Milliseconds of processor time per image of each, median of rounds that visit all in turn, with images per second.

    A round without a number comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with one_thread():
        for turn in range(rounds + 1):
            for number, (name, work) in enumerate(works.items()):
                show(name, turn * len(works) + number, (rounds + 1) * len(works))
                start = clock()
                work(files)
                if turn:
                    seconds[name].append((clock() - start) / len(files))
    return {
        name: {
            "milliseconds": spread([1000 * each for each in values]),
            "images_per_second": round(1 / max(median(values), 1e-9), 1),
        }
        for name, values in seconds.items()
    }
