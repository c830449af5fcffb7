"""The segmenter of Tables 4 and 7: a ConvNeXt backbone, UperNet's head, and an auxiliary head for training.

Parameter names are those of the reference (`backbone.*`, `decode_head.*`, `auxiliary_head.*`), so the `state_dict` of a
released checkpoint loads as it is.

Legend: B batch, K classes, H W of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext import models
from convnext.errors import ConvNextError, nearest
from convnext.models import convnext
from convnext.models.recompute import recompute_blocks
from convnext.segmentation.fcn import FCNHead
from convnext.segmentation.labels import IGNORED
from convnext.segmentation.names import OUTPUTS, SIZES
from convnext.segmentation.pyramid import resize
from convnext.segmentation.upernet import UperHead
from convnext.task.timm_backbone import TimmBackbone, split_name

AUXILIARY_WEIGHT = 0.4


class Segmenter(nn.Module):
    """`backbone` publishes its channels and gives four feature maps; the heads are built to fit them."""

    output_layers = OUTPUTS
    config: dict

    def __init__(
        self,
        backbone: convnext.ConvNeXt | TimmBackbone,
        *,
        num_classes: int = 150,
        channels: int = 512,
        auxiliary_channels: int = 256,
    ):
        super().__init__()
        widths = backbone.channels
        self.num_classes, self.in_chans = num_classes, backbone.in_chans
        self.backbone = backbone
        self.decode_head = UperHead(list(widths.values()), channels, num_classes)
        self.auxiliary_head = FCNHead(widths["stage2"], auxiliary_channels, num_classes)

    def layer_decay_ids(self, rule: str = "stage") -> tuple[dict[str, int], int]:
        """The backbone's depth ids (see `ConvNeXt.layer_decay_ids`); the heads have the largest."""
        ids, last = self.backbone.layer_decay_ids(rule)
        ids = {f"backbone.{name}": depth for name, depth in ids.items()}
        return {name: ids.get(name, last) for name, _ in self.named_parameters()}, last

    def decode(self, x: Tensor) -> Tensor:
        """x (B, in_chans, H, W) -> the decode head's logits (B, K, H/4, W/4), sides rounded down."""
        return self.decode_head(list(self.backbone(x).values()))

    def heads(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, in_chans, H, W) -> {"decode": (B, K, H/4, W/4), "auxiliary": (B, K, H/16, W/16)} logits."""
        maps = self.backbone(x)
        return {"decode": self.decode_head(list(maps.values())), "auxiliary": self.auxiliary_head(maps["stage2"])}

    def losses(self, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The two cross-entropies, whose sum is the training loss; the auxiliary one is already times 0.4.

        Logits are brought to the size of the targets. As in the reference, the mean is over all pixels, and an ignored
        one adds 0 to it: a batch with nothing to learn from has a loss of 0.

        Args:
            x: (B, in_chans, H, W) float.
            targets: (B, H, W) int64 in 0..K-1, or 255 for pixels to ignore.
        """
        weights = {"decode": 1.0, "auxiliary": AUXILIARY_WEIGHT}
        return {name: weights[name] * pixel_loss(logits, targets) for name, logits in self.heads(x).items()}

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """x (B, in_chans, H, W) -> fp32 logits (B, K, H, W); with `targets`, the losses.

        Without targets the auxiliary head does not run, so this is what Table 4 counts: its "FLOPs" are the
        multiply-accumulates of convolutions and linear layers in one such pass, its parameters are those of the whole
        model, auxiliary head included.
        """
        if targets is not None:
            return self.losses(x, targets)
        return resize(self.decode(x).float(), x.shape[2:])


def pixel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K, h, w), resized to the targets (B, H, W), over all B H W pixels; in fp32."""
    logits = resize(logits.float().contiguous(memory_format=torch.channels_last), targets.shape[1:])
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)  # (B H W, K): half the time of classes in the second place
    return F.cross_entropy(rows, targets.flatten(), ignore_index=IGNORED, reduction="sum") / targets.numel()


def build(
    name: str,
    *,
    num_classes: int = 150,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    channels: int = 512,
    auxiliary_channels: int = 256,
    checkpoint_backbone: bool = False,
) -> Segmenter:
    """A randomly initialised segmenter; `model.config` records its name and what its weights depend on.

    Args:
        name: `upernet_convnext_{atto..xlarge}`, see `SIZES`; or the heads around a network of timm, to compare with:
            `upernet+timm:resnet50`.
        num_classes: ADE20K's 150 by default.
        drop_path_rate, layer_scale_init_value: the backbone's, see `ConvNeXt`.
        channels, auxiliary_channels: widths of the two heads.
        checkpoint_backbone: trade time for memory in training, see `models.recompute`.

    Raises:
        ConvNextError: there is no such model.
    """
    heads = {"num_classes": num_classes, "channels": channels, "auxiliary_channels": auxiliary_channels}
    if (rival := split_name(name)) and rival[0] == "upernet":
        model = Segmenter(TimmBackbone(rival[1], in_chans), **heads)
        model.config = {"name": name, **heads, "in_chans": in_chans}
        return model
    if name not in SIZES:
        raise ConvNextError(f"There is no segmenter {name!r}.{nearest(name, SIZES)} There are: {', '.join(SIZES)}.")
    options = {
        "in_chans": in_chans,
        "drop_path_rate": drop_path_rate,
        "layer_scale_init_value": layer_scale_init_value,
    }
    backbone = models.build(name.removeprefix("upernet_"), num_classes=None, **options)
    if checkpoint_backbone:
        recompute_blocks(backbone)
    model = Segmenter(backbone, **heads)
    model.config = {"name": name, **heads, **options}
    return model
