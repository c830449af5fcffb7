"""Every mode, format and kind of damage comes out as upright RGB on white, or as an ImageError that says why."""

import os
import struct
import sys
import threading
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from convnext.data.images import FORMATS, MAX_PIXELS, ImageError, decode, open_image, to_rgb

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-images"
WHITE, BLACK = [255, 255, 255], [0, 0, 0]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int = 48, width: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def pixels(image: Image.Image) -> list:
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 77, [77, 77, 77]),
        ("LA", (10, 255), [10, 10, 10]),
        ("LA", (10, 0), WHITE),
        ("La", (0, 0), WHITE),
        ("La", (10, 255), [10, 10, 10]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (0, 0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("RGBA", (9, 8, 7, 255), [9, 8, 7]),
        ("RGBa", (0, 0, 0, 0), WHITE),
        ("RGBa", (9, 8, 7, 255), [9, 8, 7]),
        ("RGBX", (9, 8, 7, 0), [9, 8, 7]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("YCbCr", (255, 128, 128), WHITE),
        ("HSV", (0, 255, 255), [255, 0, 0]),
        ("I;16", 65535, WHITE),
        ("I;16", 257 * 100, [100, 100, 100]),
        ("I;16", 200, [1, 1, 1]),
        ("I;16L", 257 * 100, [100, 100, 100]),
        ("I;16B", 257 * 100, [100, 100, 100]),
        ("I;16N", 257 * 100, [100, 100, 100]),
    ],
)
def test_mode(mode, value, expected):
    if mode == "I;16N":  # Image.new cannot fill it
        image = Image.frombytes(mode, (2, 1), np.full(2, value, np.uint16).tobytes())
    else:
        image = Image.new(mode, (2, 1), value)
    assert image.mode == mode
    assert pixels(to_rgb(image)) == [expected, expected]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 100, 255], [0, 100, 255]),
        ("I", [0, 257 * 7, 65535], [0, 7, 255]),
        ("I", [-100, 0, 100], [0, 128, 255]),
        ("I", [70000, 70000, 70000], [0, 0, 0]),
        ("F", [0.0, 0.2, 1.0], [0, 51, 255]),
        ("F", [0.0, 51.0, 255.0], [0, 51, 255]),
        ("F", [0.0, 257 * 7, 65535.0], [0, 7, 255]),
        ("F", [-1.0, 0.0, 3.0], [0, 64, 255]),
        ("F", [float("nan"), float("inf"), 1.0], [0, 0, 255]),
    ],
)
def test_32_bit_range_follows_the_values(mode, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.int32 if mode == "I" else np.float32))
    assert image.mode == mode
    assert [red for red, _, _ in pixels(to_rgb(image))] == expected


def test_lab():
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    for colour in ((255, 255, 255), (200, 50, 20), (20, 60, 200)):
        lab = to_lab.apply(Image.new("RGB", (2, 2), colour))
        assert lab.mode == "LAB"
        for image in (to_rgb(lab), decode(encoded(lab, "TIFF"))):
            np.testing.assert_allclose(pixels(image), [colour] * 4, atol=3)  # 8 bit Lab is coarser than 8 bit RGB


def test_palettes():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(decode(encoded(image, "PNG"))) == [[10, 20, 30], [200, 100, 50]]
    assert pixels(decode(encoded(image, "GIF"))) == [[10, 20, 30], [200, 100, 50]]
    assert pixels(decode(encoded(image, "GIF", transparency=0))) == [WHITE, [200, 100, 50]]
    assert pixels(decode(encoded(image, "PNG", transparency=1))) == [[10, 20, 30], WHITE]
    assert pixels(decode(encoded(image, "PNG", transparency=bytes([255, 0])))) == [[10, 20, 30], WHITE]
    assert pixels(to_rgb(image.convert("PA"))) == [[10, 20, 30], [200, 100, 50]]
    transparent = image.convert("PA")
    transparent.putalpha(0)
    assert transparent.mode == "PA"
    assert pixels(to_rgb(transparent)) == [WHITE, WHITE]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "expected"),
    [
        (8, 0, bytes([5, 9]), struct.pack(">H", 5), [WHITE, [9, 9, 9]]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3), [WHITE, [4, 5, 6]]),
        (1, 0, bytes([0b01000000]), struct.pack(">H", 0), [WHITE, WHITE]),
        (16, 0, struct.pack(">2H", 5, 257 * 9), struct.pack(">H", 5), [WHITE, [9, 9, 9]]),
        (16, 4, struct.pack(">4H", 0, 0, 0, 65535), None, [WHITE, BLACK]),
        (16, 6, struct.pack(">8H", 0, 0, 0, 0, 0, 0, 0, 65535), None, [WHITE, BLACK]),
    ],
)
def test_png_transparency(depth, colour, row, key, expected):
    chunks = [(b"tRNS", key)] if key else []
    assert pixels(decode(png(2, 1, depth, colour, b"\0" + row, *chunks))) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255  # the upper left quarter is white
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    image = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)).convert("RGB"), kind, exif=exif))
    assert image.size == (32, 16)
    np.testing.assert_allclose(np.asarray(image)[..., 0], upright, atol=8)
    assert not image.info
    assert not image.getexif()


XMP = b"<x:xmpmeta><rdf:Description tiff:Orientation%s</x:xmpmeta>"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", [b'="%d"/>', b">%d</tiff:Orientation>"])
@pytest.mark.parametrize("also_exif", [False, True])
def test_orientation_in_xmp_as_pillow_applies_it(kind, orientation, form, also_exif):
    """EXIF goes first where both have one."""
    exif = Image.Exif()
    if also_exif:
        exif[0x112] = 3
    options = {"exif": exif} if also_exif else {}
    xmp = XMP % (form % orientation)
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        data = encoded(noise(), kind, pnginfo=info, **options)
    elif kind == "TIFF":
        data = encoded(noise(), kind, tiffinfo={700: xmp} | ({0x112: 3} if also_exif else {}))
    else:
        data = encoded(noise(), kind, xmp=xmp, **options)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert decode(data).tobytes() == expected.convert("RGB").tobytes()
    assert decode(data).size == expected.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_a_raw_exif_profile(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    block, info = exif.tobytes(), PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    data = encoded(noise(), "PNG", pnginfo=info)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert (expected.size == (48, 32)) == (orientation > 4)
    assert decode(data).tobytes() == expected.tobytes()


def test_a_broken_raw_profile_is_passed_over():
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 9\nno hexadecimal\n")
    assert decode(encoded(noise(), "PNG", pnginfo=info)).size == (32, 48)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"nonsense",
        b"II*\0\xff\xff\xff\xff",  # the directory is beyond the end
        b"MM\0*\0\0\0\x08\0\x05\x01\x12",  # the directory is cut off
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",  # there is no orientation 9
    ],
)
def test_broken_exif_is_ignored(kind, block):
    content = encoded(Image.new("RGB", (4, 2), "white"), kind, exif=b"Exif\0\0" + block)
    assert pixels(decode(content)) == [WHITE] * 8


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
        assert pixels(decode(content)) == [[255, 0, 0]] * 4


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated(kind):
    content = encoded(noise(), kind)
    assert decode(content).size == (32, 48)
    for share in (0.02, 0.2, 0.5, 0.9):
        with pytest.raises(ImageError, match=r"^Cannot read image of [\d,]+ bytes: it"):
            decode(content[: int(share * len(content))])


def test_damage_raises_nothing_else():
    rng = np.random.default_rng(0)
    kinds = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    for kind in kinds:
        whole = np.frombuffer(encoded(noise(16, 16), kind), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(whole), 120), 4)] = rng.integers(0, 256, 4)
            with suppress(ImageError):
                assert decode(damaged.tobytes(), max_pixels=10**6).mode == "RGB"


def test_pixel_limit_holds_before_decoding():
    assert MAX_PIXELS == 89_478_485 == Image.MAX_IMAGE_PIXELS
    assert decode(encoded(noise(), "PNG"), max_pixels=48 * 32).size == (32, 48)
    with pytest.raises(ImageError, match="32 x 48 pixels are more than the limit of 1,535"):
        decode(encoded(noise(), "PNG"), max_pixels=48 * 32 - 1)


@pytest.mark.parametrize("action", ["error", "always"])
@pytest.mark.parametrize("side", [10_000, 60_000])  # over Pillow's limit for a warning, and for an error
def test_bombs_never_reach_pillows_check(action, side):
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        with pytest.raises(ImageError, match=f"{side} x {side} pixels"):
            decode(png(side, side, 8, 0, b""))
    assert not caught
    assert limit == Image.MAX_IMAGE_PIXELS


def test_bomb_in_a_gif_frame():
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    with pytest.raises(ImageError, match="limit of pixels"):
        decode(b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame + b"\x08\0;")


def test_paths(tmp_path):
    noise().save(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg").tobytes() == decode(str(tmp_path / "a.jpg")).tobytes()
    assert decode(tmp_path / "a.jpg").tobytes() == decode((tmp_path / "a.jpg").read_bytes()).tobytes()
    (tmp_path / "b.jpg").write_bytes(encoded(noise(), "PNG"))  # the content counts, not the name
    assert decode(tmp_path / "b.jpg").tobytes() == noise().tobytes()


def test_bad_paths(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "short.jpg").write_bytes(encoded(noise(), "JPEG")[:-300])
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone")
    for name, reason in {
        "none.jpg": "there is no such file",
        "nowhere.jpg": "there is no such file",
        ".": "it is a folder",
        "pipe.jpg": "it is not a regular file",
        "empty.jpg": "it is empty",
        "text.jpg": "its content is none of JPEG, PNG",
        "short.jpg": "it is truncated or corrupt",
    }.items():
        path = tmp_path / name
        with pytest.raises(ImageError, match=reason) as caught:
            decode(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        decode("a\0b")


def test_a_given_name_stands_in_the_error():
    with pytest.raises(ImageError, match=r"^Cannot read train\.parquet#17: it is empty"):
        decode(b"", name="train.parquet#17")


def test_programs_are_not_run_for_an_image():
    with pytest.raises(ImageError, match="none of"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def test_header_alone():
    content = encoded(noise().convert("CMYK"), "JPEG")
    with open_image(content[:700]) as image:
        assert (image.mode, image.size) == ("CMYK", (32, 48))
    with pytest.raises(ImageError), open_image(content[:700]) as image:
        image.load()


def test_threads():
    good, bad = encoded(noise(), "JPEG"), encoded(noise(), "JPEG")[:-200]
    expected, wrong = decode(good).tobytes(), []

    def work():
        for _ in range(30):
            if decode(good).tobytes() != expected:
                wrong.append("pixels")
            try:
                decode(bad)
                wrong.append("no error")
            except ImageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow's libtiff is out of reach there")
def test_libtiff_writes_nothing_on_stderr(capfd):
    """Its own sentence went past Python: `tempfile.tif: Using code not yet in table.`"""
    data = bytearray(encoded(noise(64, 64), "TIFF", compression="tiff_lzw"))
    data[200:260] = b"\xff" * 60
    with pytest.raises(ImageError, match="truncated or corrupt"):
        decode(bytes(data))
    assert capfd.readouterr().err == ""


# size, and the rounded mean of the channels as a check of colours; None: an ImageError
ODD_IMAGES = {
    "16bit.cropped.tif": ((64, 64), (1, 1, 1)),  # its values are 291..694 of 65,535: scaled, not clipped to white
    "broken.png": None,
    "broken_data_stream.png": None,
    "crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": None,
    "decompression_bomb.gif": None,
    "dispose_bgnd.gif": ((100, 100), (72, 169, 247)),
    "exif_typeerror.jpg": ((800, 531), (161, 160, 142)),
    "frozenpond.mpo": ((640, 480), (108, 104, 101)),
    "hopper.avif": ((128, 128), (90, 80, 96)),
    "hopper.jpg": ((128, 128), (90, 80, 95)),
    "hopper.webp": ((128, 128), (90, 80, 96)),
    "hopper_16bit.pgm": ((128, 128), (84, 84, 84)),
    "hopper_bad_exif.jpg": ((500, 500), (126, 126, 126)),
    "hopper_gray.jpg": ((128, 128), (85, 85, 85)),
    "hopper_orientation_2.jpg": ((128, 128), (90, 80, 95)),
    "hopper_orientation_6.jpg": ((128, 128), (90, 80, 95)),
    "hopper_orientation_8.jpg": ((128, 128), (90, 80, 95)),
    "i_trns.png": ((64, 64), (35, 35, 35)),
    "mode_palette_alpha.png": ((128, 64), (255, 0, 0)),
    "pil_sample_cmyk.jpg": ((100, 100), (30, 5, 7)),
}


@pytest.mark.shared
@pytest.mark.skipif(not ODD.is_dir(), reason="needs ../shared/data/odd-images")
@pytest.mark.parametrize("name", sorted(path.name for path in ODD.glob("*")) if ODD.is_dir() else [])
def test_odd_images(name):
    expected = ODD_IMAGES.get(name)
    for source in (ODD / name, (ODD / name).read_bytes()):
        if expected is None and name in ODD_IMAGES:
            with pytest.raises(ImageError):
                decode(source)
        else:
            image = decode(source)
            size, mean = expected
            assert image.size == size
            np.testing.assert_allclose(np.asarray(image).mean(axis=(0, 1)), mean, atol=1)


@pytest.mark.shared
@pytest.mark.skipif(not ODD.is_dir(), reason="needs ../shared/data/odd-images")
def test_odd_orientations_are_the_same_image():
    upright = np.asarray(decode(ODD / "hopper.jpg"), dtype=np.float32)
    for orientation in (2, 6, 8):
        turned = np.asarray(decode(ODD / f"hopper_orientation_{orientation}.jpg"), dtype=np.float32)
        assert np.abs(turned - upright).mean() < 10
