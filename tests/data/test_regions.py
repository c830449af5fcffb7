"""Parts of images for training; evaluation decodes in full."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from convnext.classification.dataset import ArrayDataset
from convnext.data.images import FORMATS, ImageError, decode, open_image
from convnext.data.regions import BLOCK, Region, _decoded, decode_region

SHARED = Path(__file__).parents[3] / "shared" / "data"


def picture(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("region", "shrink"),
    [
        (Region(0, 0, 447, 900, (224, 224)), 1),
        (Region(0, 0, 448, 448, (224, 224)), 2),
        (Region(0, 0, 900, 4000, (224, 224)), 4),
        (Region(0, 0, 1800, 1792, (224, 224)), 8),
        (Region(0, 0, 10, 10, (224, 224)), 1),
    ],
)
def test_the_image_is_shrunk_as_far_as_the_region_allows(region, shrink):
    assert region.shrink == shrink


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_cannot_be_shrunk_is_cut_to_the_bit(kind):
    data = encoded(picture(300, 200), kind)
    region = Region(31, 17, 120, 99, (96, 96))
    expected = decode(data).crop((31, 17, 151, 116))
    assert np.array_equal(decode_region(data, lambda size: region), np.asarray(expected))


def by_pillow(data: bytes, region: Region) -> np.ndarray:
    """The region, decoded at the same scale by Pillow."""
    with Image.open(BytesIO(data)) as image:
        assert isinstance(image, JpegImageFile)
        whole = image.size
        if region.shrink > 1:
            image.draft(None, (image.width // region.shrink, image.height // region.shrink))  # type: ignore[arg-type]
        return np.asarray(image.convert("RGB").crop(region.box(whole, image.size)))


def simple(data: bytes, shrink: int = 1) -> bool:
    """Whether the file is decoded without Pillow."""
    with open_image(data) as image:
        return _decoded(image, shrink) is not None


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "coarse": {"quality": 10},
    "progressive": {"progressive": True, "quality": 92},
    "restarts": {"restart_marker_blocks": 3},
    "RGB kept": {"keep_rgb": True},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=list(JPEGS))
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_pixels_are_those_of_pillow_to_the_bit(options, grey):
    for size in ((300, 200), (301, 203), (64, 9), (17, 8), (9, 3), (8, 8), (7, 7), (3, 5), (1, 1)):
        noisy = np.asarray(picture(*size)) // 2 + np.random.default_rng(1).integers(
            0, 99, (*size[::-1], 3), dtype=np.uint8
        )
        image = Image.fromarray(noisy)
        data = encoded(image.convert("L") if grey else image, **options)
        for shrink in (1, 2, 4, 8):
            least = max(1, size[0] // shrink), max(1, size[1] // shrink)
            region = Region(0, 0, *size, least)
            assert np.array_equal(decode_region(data, lambda size, region=region: region), by_pillow(data, region))
            assert simple(data, shrink) == (max(size) >= BLOCK)


def test_four_colours_and_what_libjpeg_warns_of_are_left_to_pillow():
    cmyk = encoded(picture(64, 48).convert("CMYK"))
    ends_early = encoded(picture(300, 200), quality=95)[:-400] + b"\xff\xd9"
    for data in (cmyk, ends_early):
        assert not simple(data)
        region = Region(0, 0, 64, 48, (64, 48))
        assert np.array_equal(decode_region(data, lambda size, region=region: region), by_pillow(data, region))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_shrunk_region_is_the_region_scaled_down(orientation, shrink):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(1008, 808), quality=95, exif=exif)
    whole = decode(data)
    left, top, side = 96, 160, 608  # whole blocks of the shrunk image
    region = Region(left, top, side, side, (side // shrink, side // shrink))
    sizes = []
    found = decode_region(data, lambda size: sizes.append(size) or region)
    assert sizes == [whole.size]
    assert found.shape == (side // shrink, side // shrink, 3)
    expected = whole.resize(found.shape[1::-1], Image.Resampling.BOX, (left, top, left + side, top + side))
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 3  # libjpeg leaves the high frequencies out


def test_an_image_as_it_is_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(300, 200), exif=exif)
    sizes = []
    found = decode_region(data, lambda size: sizes.append(size) or Region(5, 6, 70, 80, (70, 80)), upright=False)
    assert sizes == [(300, 200)]
    with Image.open(BytesIO(data)) as stored:
        assert np.array_equal(found, np.asarray(stored)[6:86, 5:75])


def test_the_region_of_an_image_in_memory():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    images = ArrayDataset("noise", pixels, np.zeros(1), ["a"])
    found = images.region(0, lambda size: Region(3, 4, *(side // 2 for side in size), (1, 1)))
    assert np.array_equal(found, pixels[0, 4:14, 3:18])


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_what_cannot_be_decoded_is_named(kept):
    data = encoded(picture(900, 700))
    with pytest.raises(ImageError, match=r"Cannot read cat/1\.jpg: it is truncated"):
        decode_region(data[: int(len(data) * kept)], lambda size: Region(0, 0, *size, (100, 100)), "cat/1.jpg")


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (9, 17)])
def test_thin_and_tiny_images(size):
    data = encoded(picture(*size))
    assert decode_region(data, lambda size: Region(0, 0, *size, (1, 1))).size > 0


def shared_photos() -> list[Path]:
    files = [path for path in sorted(SHARED.rglob("*")) if path.suffix.lower() in {".jpg", ".jpeg", ".mpo"}]
    files = [path for path in files if path.parent.name != "odd-images"]
    assert len(files) > 250
    return files


@pytest.mark.shared
@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_every_image_of_the_shared_folder_has_the_pixels_that_pillow_gives(shrink):
    for path in shared_photos():
        with Image.open(path, formats=FORMATS) as image:
            region = Region(0, 0, *image.size, (image.width // shrink, image.height // shrink))
        found = decode_region(path, lambda size, region=region: region, upright=False)
        assert np.array_equal(found, by_pillow(path.read_bytes(), region)), path


@pytest.mark.shared
def test_evaluation_decodes_every_image_of_the_shared_folder_in_full():
    for path in shared_photos():
        with Image.open(path, formats=FORMATS) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        assert np.array_equal(np.asarray(decode(path)), np.asarray(expected)), path
