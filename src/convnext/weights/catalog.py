"""Every released checkpoint of the paper by name, and the cache into which they are downloaded. No torch in here.

The files, their metrics and their licence are those of the reference repository (facebookresearch/ConvNeXt, README of
the repository and of its `object_detection` and `semantic_segmentation` folders). It publishes no hashes.

`CONVNEXT_CACHE` moves the cache from ~/.cache/convnext; `CONVNEXT_MIRROR` is a URL or a local folder with the files.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from convnext.errors import ConvNextError, nearest
from convnext.files import cache_folder
from convnext.recipes.dense import LONG, SHORT
from convnext.weights.download import Progress, download, recorded_sha256, verify

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASE = "https://dl.fbaipublicfiles.com/convnext/"


@dataclass(frozen=True)
class Entry:
    """A released checkpoint.

    Attributes:
        name: the name in the catalog: model, dot, the data it has seen.
        file: path below the host.
        model: the model's name here.
        num_classes: outputs of the classifier, categories of the detector or segmenter.
        preprocess: what its evaluation does to an image, as the metadata of our own files says it.
        metrics: published, in percent: top1, top5; box_ap, mask_ap; miou, miou_ms (single and multi-scale).
        sha256: hex, or its first digits; None where it is unknown.
        licence: of the file.
    """

    name: str
    file: str
    model: str
    num_classes: int
    preprocess: dict
    metrics: dict[str, float]
    sha256: str | None = None
    licence: str = "MIT (the reference repository's README: the project is released under the MIT license)"

    @property
    def url(self) -> str:
        return f"{_mirror().rstrip('/')}/{self.file}"

    @property
    def metrics_text(self) -> str:
        return ", ".join(f"{metric} {value}" for metric, value in self.metrics.items())


def _entry(name: str, file: str, classes: int, geometry: dict, metrics: dict[str, float]) -> Entry:
    return Entry(name, f"{file}.pth", name.split(".")[0], classes, {**geometry, "mean": MEAN, "std": STD}, metrics)


def _classifier(name: str, file: str, size: int = 224, classes: int = 1000, **metrics: float) -> Entry:
    return _entry(name, file, classes, {"size": size, "crop_ratio": 0.875 if size < 384 else 1.0}, metrics)


def _detector(name: str, file: str, box_ap: float, mask_ap: float) -> Entry:
    return _entry(name, f"coco/{file}_3x", 80, {"short": SHORT, "long": LONG}, {"box_ap": box_ap, "mask_ap": mask_ap})


def _segmenter(name: str, file: str, size: int, miou: float, miou_ms: float) -> Entry:
    geometry = {"short": size, "long": 4 * size, "crop": size}
    return _entry(name, f"ade20k/{file}_{size}x{size}", 150, geometry, {"miou": miou, "miou_ms": miou_ms})


ENTRIES = (
    # ImageNet-1K, the averaged (EMA) weights at 224
    _classifier("convnext_tiny.in1k", "convnext_tiny_1k_224_ema", top1=82.1),
    _classifier("convnext_small.in1k", "convnext_small_1k_224_ema", top1=83.1),
    _classifier("convnext_base.in1k", "convnext_base_1k_224_ema", top1=83.8),
    _classifier("convnext_large.in1k", "convnext_large_1k_224_ema", top1=84.3),
    _classifier("convnext_base.in1k_384", "convnext_base_1k_384", 384, top1=85.1),
    _classifier("convnext_large.in1k_384", "convnext_large_1k_384", 384, top1=85.5),
    # without averaging: where the paper's detectors and segmenters start from
    _classifier("convnext_tiny.in1k_raw", "convnext_tiny_1k_224"),
    _classifier("convnext_small.in1k_raw", "convnext_small_1k_224"),
    _classifier("convnext_base.in1k_raw", "convnext_base_1k_224"),
    # ImageNet-22K
    _classifier("convnext_tiny.in22k", "convnext_tiny_22k_224", classes=21841),
    _classifier("convnext_small.in22k", "convnext_small_22k_224", classes=21841),
    _classifier("convnext_base.in22k", "convnext_base_22k_224", classes=21841),
    _classifier("convnext_large.in22k", "convnext_large_22k_224", classes=21841),
    _classifier("convnext_xlarge.in22k", "convnext_xlarge_22k_224", classes=21841),
    # ImageNet-22K, then 1K
    _classifier("convnext_tiny.in22k_in1k", "convnext_tiny_22k_1k_224", top1=82.9),
    _classifier("convnext_small.in22k_in1k", "convnext_small_22k_1k_224", top1=84.6),
    _classifier("convnext_base.in22k_in1k", "convnext_base_22k_1k_224", top1=85.82, top5=97.868),
    _classifier("convnext_large.in22k_in1k", "convnext_large_22k_1k_224", top1=86.6),
    _classifier("convnext_xlarge.in22k_in1k", "convnext_xlarge_22k_1k_224_ema", top1=87.0),
    _classifier("convnext_tiny.in22k_in1k_384", "convnext_tiny_22k_1k_384", 384, top1=84.1),
    _classifier("convnext_small.in22k_in1k_384", "convnext_small_22k_1k_384", 384, top1=85.8),
    _classifier("convnext_base.in22k_in1k_384", "convnext_base_22k_1k_384", 384, top1=86.8),
    _classifier("convnext_large.in22k_in1k_384", "convnext_large_22k_1k_384", 384, top1=87.5),
    _classifier("convnext_xlarge.in22k_in1k_384", "convnext_xlarge_22k_1k_384_ema", 384, top1=87.8),
    # isotropic, ImageNet-1K
    _classifier("convnext_isotropic_small.in1k", "convnext_iso_small_1k_224_ema", top1=78.7),
    _classifier("convnext_isotropic_base.in1k", "convnext_iso_base_1k_224_ema", top1=82.0),
    _classifier("convnext_isotropic_large.in1k", "convnext_iso_large_1k_224_ema", top1=82.6),
    # COCO, 36 epochs; backbones from ImageNet-1K unless the name says 22K
    _detector("mask_rcnn_convnext_tiny.coco", "mask_rcnn_convnext_tiny_1k", 46.2, 41.7),
    _detector("cascade_mask_rcnn_convnext_tiny.coco", "cascade_mask_rcnn_convnext_tiny_1k", 50.4, 43.7),
    _detector("cascade_mask_rcnn_convnext_small.coco", "cascade_mask_rcnn_convnext_small_1k", 51.9, 45.0),
    _detector("cascade_mask_rcnn_convnext_base.coco", "cascade_mask_rcnn_convnext_base_1k", 52.7, 45.6),
    _detector("cascade_mask_rcnn_convnext_base.in22k_coco", "cascade_mask_rcnn_convnext_base_22k", 54.0, 46.9),
    _detector("cascade_mask_rcnn_convnext_large.in22k_coco", "cascade_mask_rcnn_convnext_large_22k", 54.8, 47.6),
    _detector("cascade_mask_rcnn_convnext_xlarge.in22k_coco", "cascade_mask_rcnn_convnext_xlarge_22k", 55.2, 47.7),
    # ADE20K, 160k iterations
    _segmenter("upernet_convnext_tiny.ade20k_512", "upernet_convnext_tiny_1k", 512, 46.0, 46.7),
    _segmenter("upernet_convnext_small.ade20k_512", "upernet_convnext_small_1k", 512, 48.7, 49.6),
    _segmenter("upernet_convnext_base.ade20k_512", "upernet_convnext_base_1k", 512, 49.1, 49.9),
    _segmenter("upernet_convnext_base.in22k_ade20k_640", "upernet_convnext_base_22k", 640, 52.6, 53.1),
    _segmenter("upernet_convnext_large.in22k_ade20k_640", "upernet_convnext_large_22k", 640, 53.2, 53.7),
    _segmenter("upernet_convnext_xlarge.in22k_ade20k_640", "upernet_convnext_xlarge_22k", 640, 53.6, 54.0),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}
_BY_FILE = {Path(entry.file).name: entry for entry in ENTRIES}


def names() -> list[str]:
    """All names of the catalog."""
    return list(_BY_NAME)


def get(name: str) -> Entry:
    """The entry of a name.

    Raises:
        ConvNextError: there is none; the message has the nearest names.
    """
    if name not in _BY_NAME:
        raise ConvNextError(f"The catalog has no weights {name!r}.{nearest(name, _BY_NAME)}")
    return _BY_NAME[name]


def describe(file_name: str) -> dict:
    """Metadata of a released checkpoint, by the name of the released file; empty for other files."""
    entry = _BY_FILE.get(file_name)
    if entry is None:
        return {}
    return {
        "preprocess": entry.preprocess,
        "metrics": entry.metrics,
        "licence": entry.licence,
        "source": BASE + entry.file,
    }


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The file of a name: from the mirror if that is a local folder, from the cache, or downloaded into the cache.

    A cached file is checked against its published hash, or else against the one it had when it arrived.

    Args:
        progress: see `download.download`.

    Raises:
        ConvNextError: unknown name, no connection, no such file on the mirror, or the file has changed.
    """
    from filelock import FileLock

    entry, mirror = get(name), _mirror()
    file = cache_folder() / Path(entry.file).name
    if "://" not in mirror:
        folder = Path(mirror).expanduser()
        local = next((path for path in (folder / entry.file, folder / file.name) if path.is_file()), None)
        if local:
            if entry.sha256:
                verify(local, entry.sha256)
            return local
        if not file.exists():
            raise ConvNextError(
                f"The folder {folder} (CONVNEXT_MIRROR) has neither {entry.file} nor {file.name}. Put the file there, "
                "or unset CONVNEXT_MIRROR to download it."
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):  # the processes of a distributed run ask all at once
        if not file.exists():
            download(entry.url, file, progress)
        verify(file, entry.sha256 or recorded_sha256(file))
    return file


def resolve(path_or_name: str | Path, progress: Progress | None = None) -> Path:
    """The path itself if there is something, otherwise the file of that name in the catalog.

    Raises:
        ConvNextError: neither a path nor a name, or the download failed.
    """
    path = Path(path_or_name).expanduser()
    if path.exists():
        return path
    if str(path_or_name) in _BY_NAME:
        return fetch(str(path_or_name), progress)
    beside = os.listdir(path.parent) if path.parent.is_dir() else []
    choices = [*_BY_NAME, *beside] if path.parent == Path() else beside
    raise ConvNextError(
        f"There is no file or folder {path_or_name}, and no such name in the catalog.{nearest(path.name, choices)}"
    )


def _mirror() -> str:
    return os.environ.get("CONVNEXT_MIRROR", BASE)
