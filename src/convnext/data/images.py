"""The one decoder of the package: training, evaluation, prediction and serving read an image file here, all alike.

Pillow's `Image.open` is not used: it warns about large images through global state that no thread can silence for
itself, and it tries formats that run other programs (EPS) or decode to nothing useful.
"""

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import BinaryIO

import numpy as np

# imported for their registration in Image.OPEN
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from convnext.errors import ConvNextError

MAX_PIXELS = 1024**3 // 4 // 3
"""Pillow's own limit, 89,478,485: a quarter of a GiB of RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp",
    ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".avif", ".avifs", ".jp2", ".j2k", ".jpf",
})
# fmt: on
"""Lower-case endings of the files that a folder of images is searched for; `decode` looks at the content alone."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _silence_libtiff() -> None:
    """Turn off libtiff's messages on stderr, in all threads: what matters of them is in the ImageError.

    Through the library that Pillow has loaded, where its symbols are visible (not in Pillow for Windows).
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.restype = ctypes.c_void_p
            set_handler(None)


_silence_libtiff()


class ImageError(ConvNextError):
    """An image that cannot be decoded; the message names it and says why."""


def unreadable(reason: str) -> ImageError:
    """Error that ends an evaluation because an image cannot be read, for this reason."""
    return ImageError(f"{reason} Evaluation leaves no image out: repair or remove it.")


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Left out: a broken EXIF block warns here, which fails the whole image where warnings are errors."""


def decode(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Image.Image:
    """Decode one image, upright, on white, without metadata.

    - The orientation is applied that EXIF or, without one there, XMP has; a broken EXIF block is ignored.
    - Transparency is composited on white, because that is what a person sees on a page; the colour that a file keeps
      under transparent pixels is arbitrary.
    - Of an animation, the first frame.
    - More than 8 bits are scaled to 8, see `to_rgb`.

    Args:
        source: path of a file, or the file's bytes.
        max_pixels: largest width x height, checked in the header before anything is decoded.
        name: what to call the image in errors; default: the path, or "image of N bytes".

    Returns:
        Image of mode RGB, 8 bits per channel.

    Raises:
        ImageError: missing, not a file, none of `FORMATS`, too large, truncated or corrupt.
    """
    with open_image(source, max_pixels, name) as image:
        return upright_rgb(image)


@contextmanager
def open_image(
    source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Iterator[ImageFile.ImageFile]:
    """The image with only its header read, as in `decode`; what goes wrong inside the block is an ImageError too."""
    name = name or (f"image of {len(source):,} bytes" if isinstance(source, bytes) else repr(os.fspath(source)))
    try:
        with _stream(source) as stream:
            image = _identify(stream)
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"its {width} x {height} pixels are more than the limit of {max_pixels:,}; scale it down"
                )
            yield image
    except ImageError as error:
        raise ImageError(f"Cannot read {name}: {error}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # a GIF frame or a TIFF tile
        raise ImageError(f"Cannot read {name}: a part of it is over Pillow's limit of pixels; scale it down.") from None
    except Exception as error:  # decoders raise anything on hostile input
        raise ImageError(
            f"Cannot read {name}: it is truncated or corrupt ({str(error) or type(error).__name__}); "
            "get a fresh copy of it or leave it out."
        ) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to RGB and apply its orientation."""
    return turned(to_rgb(image), orientation(image) or 1)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as an EXIF orientation, 1 to 8, says."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy of an image of any mode as 8 bit RGB, on white where transparent, without metadata.

    16 bit grey (I;16) is scaled from 0..65535. The 32 bit modes have no agreed range, so their values tell: I is 0..255
    or 0..65535, F is 0..1, 0..255 or 0..65535, whichever is the first that holds them all; values outside all of these
    are stretched from their minimum and maximum. Not-a-number and infinity count as 0.
    """
    if image.mode.startswith(("I", "F")):
        rgb = _scaled(image).convert("RGB")
    elif image.has_transparency_data:
        # La has no way to RGBA but through LA
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    rgb.info = {}  # an orientation left in there would be applied twice by the next reader
    return rgb


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8, where Pillow's `exif_transpose` finds it: EXIF block, raw EXIF profile, XMP; else None.

    Not left to Pillow, which reads all other tags as well and warns about those that are broken.
    """
    if image.format == "TIFF":  # its reader has turned it
        return None
    exif = image.info.get("exif")
    if exif is None:  # ImageMagick's text chunk of a PNG: a title, a length, hexadecimal lines
        with suppress(ValueError):
            exif = bytes.fromhex("".join(str(image.info.get("Raw profile type exif", "")).split("\n")[3:]))
    if (value := _exif_orientation(exif or b"")) is not None:
        return value
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else None


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation tag of an EXIF block; None if it has none or is broken."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = ">" if tiff.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(order + "H6xH", tiff, offset)
            if tag == ExifTags.Base.Orientation:
                return value
    except struct.error:
        pass
    return None


def _scaled(image: Image.Image) -> Image.Image:
    """A greyscale image of more than 8 bits as mode L."""
    tops = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    values = np.asarray(image).astype(np.float32)
    transparent = values == image.info.get("transparency")
    values[~np.isfinite(values)] = 0
    low, high = float(values.min()), float(values.max())
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        values -= low
        top = high - low or 1.0
    grey = np.rint(values * (255 / top)).astype(np.uint8)
    grey[transparent] = 255
    return Image.fromarray(grey)


def _stream(source: str | os.PathLike | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    if not os.path.isfile(source):  # opening a pipe would wait for ever
        if os.path.isdir(source):
            raise ImageError("it is a folder; give the path of one image")
        if os.path.exists(source):
            raise ImageError("it is not a regular file; give the path of one image")
        raise ImageError("there is no such file; check the path")
    try:
        return open(source, "rb")
    except OSError as error:
        raise ImageError(f"{error.strerror}; make the file readable") from None


def _identify(stream: BinaryIO) -> ImageFile.ImageFile:
    prefix = stream.read(16)
    if not prefix:
        raise ImageError("it is empty; get a fresh copy of it or leave it out")
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(prefix) is True:
            stream.seek(0)
            return (_Jpeg if name == "JPEG" else factory)(stream, "")
    raise ImageError(f"its content is none of {', '.join(FORMATS)}; convert it to PNG or JPEG")
