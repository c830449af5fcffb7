"""A network of timm as the backbone of our detectors and segmenters: the rivals of Tables 3 and 4 under the same heads."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from convnext.errors import ConvNextError, nearest
from convnext.task.names import MARK


class TimmBackbone(nn.Module):
    """Four feature maps of a timm classifier with random weights; `channels` and `strides` as our backbones publish them.

    Args:
        name: of timm, such as `resnet50` or `swin_tiny_patch4_window7_224`.
        in_chans: channels of the image.

    Raises:
        ConvNextError: timm has no such network, or it does not give maps of strides 4, 8, 16 and 32.
    """

    def __init__(self, name: str, in_chans: int = 3):
        super().__init__()
        import timm

        if name not in timm.list_models():
            raise ConvNextError(f"timm has no network {name!r}.{nearest(name, timm.list_models())}")
        windows: dict[str, Any] = {"strict_img_size": False, "dynamic_img_size": True} if "swin" in name else {}
        try:
            body: Any = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_chans, **windows)
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            raise ConvNextError(f"timm gives no feature maps of {name!r} ({error}).") from error
        self.body: Any = body
        reductions = body.feature_info.reduction()
        if reductions[-4:] != [4, 8, 16, 32]:
            raise ConvNextError(f"{name!r} gives maps of strides {reductions}; four of 4, 8, 16 and 32 are needed.")
        self.in_chans = in_chans
        self.channels = dict(zip(_NAMES, body.feature_info.channels()[-4:], strict=True))
        self.strides = dict(zip(_NAMES, reductions[-4:], strict=True))

    def layer_decay_ids(self, rule: str = "layer") -> tuple[dict[str, int], int]:
        """No groups of its own: everything has the one rate.

        Raises:
            ConvNextError: always, so that nobody trains it by a rule that is for our networks.
        """
        raise ConvNextError("A backbone of timm has no layer groups here: train it with --optim.layer-decay None.")

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        """x (B, in_chans, H, W) -> {"stage0": (B, C0, H/4, W/4), .. "stage3": (B, C3, H/32, W/32)}."""
        maps: list[Tensor] = self.body(x)[-4:]
        channels_last = [m.shape[-1] == c for m, c in zip(maps, self.channels.values(), strict=True)]
        if all(channels_last):  # (B, H, W, C), as Swin gives them
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return dict(zip(_NAMES, maps, strict=True))


_NAMES = ("stage0", "stage1", "stage2", "stage3")


def split_name(name: str) -> tuple[str, str] | None:
    """(heads, timm's name) of `heads+timm:NAME`; None for other names."""
    heads, mark, rest = name.partition(MARK)
    return (heads, rest) if mark else None
