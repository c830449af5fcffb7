"""Labels of an image at its own size: by sliding windows, the whole image at once, or several scales (Section A.3).

As in the reference: the image is scaled, the network's logits are brought to the scaled size, and from there to the
image's own size, both bilinear. The last step, which can be K floats for each of many millions of pixels, is made
band by band, so memory is bounded by the scaled size, not by the image's.

Legend: B batch, K classes, H W of the image that comes in, h w of a map of logits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from convnext.data.pixels import DensePreprocess, normalize, pixels, resize, scaled_size
from convnext.errors import ConvNextError, nearest
from convnext.runtime.precision import autocast

MODES = ("slide", "whole", "multi-scale")
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SMALLEST = 32  # the stride of the deepest map: a network needs this many pixels
BAND = 2**24  # floats of a band of rows: 64 MiB


# -- logits of a normalised image


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """Positions where windows of `crop` pixels begin: every `stride`, the last one moved back to end with the image.

    A side shorter than the crop has one window, as long as the side.
    """
    count = -(-max(side - crop, 0) // stride) + 1
    return [min(i * stride, max(side - crop, 0)) for i in range(count)]


def sliding_logits(model: nn.Module, x: Tensor, crop: int, stride: int, at_once: int = 1) -> Tensor:
    """x (B, 3, H, W) -> fp32 logits (B, K, H, W), each pixel the mean over the windows that contain it.

    Where the image is smaller than the crop, the windows are as small as the image; below 32 pixels, the least that the
    network takes, it is padded at its right and lower borders with zeros (the mean colour), which are cut off again.

    Args:
        model: (B, 3, h, w) -> logits (B, K, h, w).
        crop, stride: of the square windows, in pixels.
        at_once: windows in one batch.

    Raises:
        ConvNextError: the stride would leave gaps.
    """
    if not 0 < stride <= crop:
        raise ConvNextError(f"A stride of {stride} with windows of {crop} pixels leaves gaps: it must be in 1..{crop}.")
    size, x = x.shape[2:], _at_least(x, SMALLEST)
    batch, _, height, width = x.shape
    tops, lefts = window_starts(height, crop, stride), window_starts(width, crop, stride)
    high, wide = min(crop, height), min(crop, width)
    corners = [(top, left) for top in tops for left in lefts]
    total = x.new_zeros(0)
    for i in range(0, len(corners), at_once):
        group = corners[i : i + at_once]
        windows = torch.cat([x[:, :, top : top + high, left : left + wide] for top, left in group])
        for (top, left), logits in zip(group, model(windows).float().split(batch), strict=True):
            if not len(total):
                total = logits.new_zeros(batch, logits.shape[1], height, width)
            total[:, :, top : top + high, left : left + wide] += logits
    # how many windows cover a pixel: those over its row times those over its column
    total /= _covered(tops, high, height).to(x.device)[:, None]
    total /= _covered(lefts, wide, width).to(x.device)
    return total[:, :, : size[0], : size[1]]


def whole(model: nn.Module, x: Tensor) -> Tensor:
    """x (B, 3, H, W) -> fp32 logits (B, K, H, W) in one pass; images below 32 pixels are padded as in `sliding_logits`."""
    return model(_at_least(x, SMALLEST)).float()[:, :, : x.shape[2], : x.shape[3]]


def _covered(starts: list[int], length: int, side: int) -> Tensor:
    """(side,) float: how many of the intervals of this length contain each position."""
    count = torch.zeros(side)
    for start in starts:
        count[start : start + length] += 1
    return count


def _at_least(x: Tensor, side: int) -> Tensor:
    """x (.., H, W) with zeros below and to the right until no side is shorter."""
    height, width = x.shape[-2:]
    if min(height, width) >= side:
        return x
    return F.pad(x, (0, max(side - width, 0), 0, max(side - height, 0)))


# -- from logits to the image's own size, band by band


def resized_rows(logits: Tensor, sizes: Sequence[Sequence[int]], start: int, stop: int) -> Tensor:
    """Rows start..stop of logits (K, h, w) after bilinear resizing to each of `sizes` in turn: (K, stop - start, W).

    What `F.interpolate` gives (corners not aligned), without the rows that nobody asked for.
    """
    *before, (height, width) = sizes
    below = before[-1][0] if before else logits.shape[1]
    source = ((torch.arange(start, stop, dtype=torch.float64) + 0.5) * (below / height) - 0.5).clamp(0, below - 1)
    first, last = int(source[0]), min(int(source[-1]) + 1, below - 1)
    band = resized_rows(logits, before, first, last + 1) if before else logits[:, first : last + 1]
    upper = source.long() - first
    lower = (upper + 1).clamp(max=last - first)
    share = (source - source.floor()).to(band)[:, None]
    upper, lower = upper.to(band.device), lower.to(band.device)
    rows = torch.lerp(band[:, upper], band[:, lower], share)  # (K, stop - start, width before)
    return F.interpolate(rows[None], size=(stop - start, width), mode="bilinear", align_corners=False)[0]


def bands(num_classes: int, size: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of bands of rows, of which each has at most `BAND` values of all classes, and at least one row."""
    rows = max(BAND // (num_classes * size[1]), 1)
    yield from ((start, min(start + rows, size[0])) for start in range(0, size[0], rows))


# -- images


def prepared(image: Tensor, pre: DensePreprocess, ratio: float = 1.0) -> Tensor:
    """(3, H, W) uint8 -> (3, h, w) float, scaled to `ratio` of the size that `pre` says, and normalised."""
    at = replace(pre, short=int(pre.short * ratio), long=int(pre.long * ratio))
    return normalize(resize(image, scaled_size(image.shape[-2:], at.short, at.long)), at.mean, at.std)


def probability_bands(
    model: nn.Module, image: Tensor, pre: DensePreprocess, ratios: tuple[float, ...], flip: bool, precision: str
) -> Iterator[Tensor]:
    """Yield bands (K, rows, W), from the first row to the last, of the mean class probabilities over all passes.

    The multi-scale test of Table 4: the whole image (3, H, W) uint8 at each of `ratios`, and mirrored with `flip`.
    Every pass is kept at the stride of the head (a 16th of its pixels) until its rows are wanted.
    """
    device = next(model.parameters()).device
    size = image.shape[-2:]
    kept: list[tuple[Tensor, list]] = []  # logits (K, h, w) and the sizes that they are brought to
    for ratio in ratios:
        scaled = prepared(image, pre, ratio).to(device)
        for mirrored in (False, True)[: 1 + flip]:
            x = _at_least(scaled.flip(-1) if mirrored else scaled, SMALLEST)[None]
            with autocast(precision, device):
                decode: Any = model.decode
                logits = decode(x).float()
            if x.shape[1:] != scaled.shape:  # only a sliver of an image, whose padding has to be cut off
                logits = F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)
                logits = logits[:, :, : scaled.shape[1], : scaled.shape[2]]
            kept.append((logits[0].flip(-1) if mirrored else logits[0], [scaled.shape[1:], size]))
    for start, stop in bands(kept[0][0].shape[0], size):
        total = torch.zeros(())
        for logits, sizes in kept:
            total = total.to(logits) + resized_rows(logits, sizes, start, stop).softmax(0)
        yield total / len(kept)


@torch.inference_mode()
def predict_labels(
    model: nn.Module,
    image: Image | Tensor,
    pre: DensePreprocess,
    mode: str = "slide",
    *,
    crop: int | None = None,
    stride: int | None = None,
    precision: str = "fp32",
    ratios: tuple[float, ...] = RATIOS,
    flip: bool = True,
) -> Tensor:
    """The likeliest class of every pixel: (H, W) labels at the image's own size, on the model's device.

    uint8 where the classes fit beside the 255 of ignored pixels, else int64.

    Args:
        model: a `Segmenter` in evaluation mode.
        image: an RGB image, or its pixels (3, H, W) uint8.
        pre: how the image is scaled and normalised.
        mode: "slide" (Table 7, single scale), "whole", or "multi-scale" (Table 4).
        crop, stride: of the sliding windows; by default `pre.crop` (else `pre.short`) and two thirds of it: 512 and 341,
            640 and 426.
        precision: fp32, bf16 or fp16, of the network; the rest is fp32.
        ratios, flip: of the multi-scale test.

    Raises:
        ConvNextError: no such mode, or a stride that leaves gaps.
    """
    if mode not in MODES:
        raise ConvNextError(f"There is no test mode {mode!r}.{nearest(mode, MODES)} There are: {', '.join(MODES)}.")
    image = image if isinstance(image, Tensor) else pixels(image)
    size = image.shape[-2:]
    if mode == "multi-scale":
        return _likeliest(probability_bands(model, image, pre, ratios, flip, precision))
    given: Any = {"crop": crop, "stride": stride, "precision": precision}
    return labels_of_batch(model, [prepared(image, pre)], [size], pre, mode, **given)[0]


@torch.inference_mode()
def labels_of_batch(
    model: nn.Module,
    images: Sequence[Tensor],
    sizes: Sequence[Sequence[int]],
    pre: DensePreprocess,
    mode: str = "slide",
    *,
    crop: int | None = None,
    stride: int | None = None,
    precision: str = "fp32",
) -> list[Tensor]:
    """`predict_labels` of several images at once, in the modes "slide" and "whole".

    Args:
        images: (3, h, w) each, all of one size, as `prepared` gives them.
        sizes: (height, width) of the images that they were made of, in which the labels are wanted.
        model, pre, mode, crop, stride, precision: as for `predict_labels`.
    """
    device = next(model.parameters()).device
    x = torch.stack(list(images)).to(device)
    with autocast(precision, device):
        if mode == "whole":
            logits = whole(model, x)
        else:
            crop = crop or pre.crop or pre.short
            logits = sliding_logits(model, x, crop, stride or crop * 2 // 3, 4 if device.type == "cuda" else 1)
    return [
        _likeliest(resized_rows(each, [size], *band) for band in bands(len(each), size))
        for each, size in zip(logits, sizes, strict=True)
    ]


def _likeliest(parts: Iterable[Tensor]) -> Tensor:
    """The class with the largest value in each position of bands (K, rows, W), as one map (H, W)."""
    labels = []
    for part in parts:
        kind = torch.uint8 if part.shape[0] <= 255 else torch.int64
        labels.append(part.max(0).indices.to(kind))  # twice as fast as argmax on a CPU
    return torch.cat(labels)
