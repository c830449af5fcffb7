"""Images in memory, in whatever form people have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convnext.errors import ConvNextError

if TYPE_CHECKING:
    from PIL.Image import Image


def from_memory(image: Any) -> Image:
    """Decode or convert an image in memory to an upright one of mode RGB.

    Args:
        image: bytes of a file, a PIL image, an array (H, W) or (H, W, 3) uint8, a tensor (3, H, W) uint8 or float in 0..1.

    Raises:
        ConvNextError: it is something else; the message says how to convert it. ImageError: bytes that cannot be decoded.
    """
    import numpy as np
    from PIL import Image as PIL

    from convnext.data.images import decode, upright_rgb

    if isinstance(image, bytes | bytearray):
        return decode(bytes(image))
    if isinstance(image, PIL.Image):
        return upright_rgb(image)
    if hasattr(image, "detach"):  # a tensor
        values = image.detach().cpu()
        if values.ndim != 3 or values.shape[0] not in (1, 3):
            raise ConvNextError(
                f"A tensor of shape {tuple(values.shape)} is no image; give (3, H, W), and a batch as a list of them."
            )
        values = values.expand(3, -1, -1).permute(1, 2, 0)
        if values.is_floating_point():
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ConvNextError(
                    "A float tensor must hold values from 0 to 1, not normalised ones: preprocessing is done here. Give the "
                    "image before normalisation, or uint8 from 0 to 255."
                )
            values = (values * 255).round()
        return PIL.fromarray(values.numpy().astype(np.uint8))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ConvNextError(
            f"An array of shape {array.shape} and type {array.dtype} is no image; give (H, W, 3) uint8 in the order RGB."
            if isinstance(image, np.ndarray)
            else f"A {type(image).__name__} is no image; give a path, bytes, a PIL image, an array or a tensor."
        )
    return upright_rgb(PIL.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))
