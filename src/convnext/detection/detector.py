"""The detectors of Table 3: a ConvNeXt backbone, a feature pyramid, region proposals, and one stage of heads or three.

Parameter names are those of the reference (`backbone.*`, `neck.*`, `rpn_head.*`, `roi_head.*`), so the `state_dict` of a
released checkpoint loads as it is. Initialised as there: the pyramid and the hidden linear layers Xavier, the proposals'
and the last linear layers normal of std 0.01 (boxes 0.001), convolutions of boxes and masks Kaiming.

Legend: B images, H W of the padded batch, K classes, N detections or objects of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convnext import models
from convnext.detection import box_head, mask_head
from convnext.detection.cascade import Detections, RoIHead, Size, Stage
from convnext.detection.fpn import FPN
from convnext.detection.mask_head import paste
from convnext.detection.names import OUTPUTS, SIZES
from convnext.detection.rpn import RPNHead
from convnext.errors import ConvNextError, nearest
from convnext.models import convnext
from convnext.models.recompute import recompute_blocks
from convnext.task.timm_backbone import TimmBackbone, split_name

CHANNELS = 256


@dataclass(frozen=True)
class Architecture:
    """Differences between Mask R-CNN and Cascade Mask R-CNN (Section A.3, and mmdet's configurations).

    Attributes:
        stages: of the heads.
        convs, linears: layers of a box head; its loss is GIoU where it has convolutions, else L1.
        low_quality: let each ground-truth box claim its best-overlapping proposals, also from another box.
        proposals: proposals of an image in training; 1000 in test.
        rpn_beta: of the proposals' box loss.
        whole_anchors: leave anchors that reach out of the image out of the proposals' losses.
    """

    stages: tuple[Stage, ...]
    convs: int
    linears: int
    low_quality: bool
    proposals: int
    rpn_beta: float
    whole_anchors: bool


ARCHITECTURES = {
    "mask_rcnn": Architecture(
        stages=(Stage(0.5, 1.0, (0.1, 0.1, 0.2, 0.2)),),
        convs=0,
        linears=2,
        low_quality=True,
        proposals=1000,
        rpn_beta=0.0,
        whole_anchors=False,
    ),
    "cascade_mask_rcnn": Architecture(
        stages=(
            Stage(0.5, 1.0, (0.1, 0.1, 0.2, 0.2)),
            Stage(0.6, 0.5, (0.05, 0.05, 0.1, 0.1)),
            Stage(0.7, 0.25, (0.033, 0.033, 0.067, 0.067)),
        ),
        convs=4,
        linears=1,
        low_quality=False,
        proposals=2000,
        rpn_beta=1 / 9,
        whole_anchors=True,
    ),
}

PER_LEVEL = 2000  # proposals before suppression, in training
TEST = (1000, 1000)  # proposals of a level before suppression, and of an image after it


class Detector(nn.Module):
    """`backbone` publishes its channels and strides and gives four feature maps; everything else is built to fit them.

    Attributes:
        rpn_samples, roi_samples: anchors and proposals of an image that the losses are taken over; None for all.
    """

    output_layers = OUTPUTS
    config: dict
    rpn_samples: int | None
    roi_samples: int | None

    def __init__(
        self,
        backbone: convnext.ConvNeXt | TimmBackbone,
        architecture: Architecture,
        *,
        num_classes: int = 80,
        channels: int = CHANNELS,
        rpn_samples: int | None = 256,
        roi_samples: int | None = 512,
    ):
        super().__init__()
        a = self.architecture = architecture
        strides = list(backbone.strides.values())
        self.num_classes, self.in_chans = num_classes, backbone.in_chans
        self.rpn_samples, self.roi_samples = rpn_samples, roi_samples
        self.backbone = backbone
        self.neck = FPN(list(backbone.channels.values()), channels)
        self.rpn_head = RPNHead(channels, [*strides, 2 * strides[-1]], a.rpn_beta, a.whole_anchors)
        self.roi_head = RoIHead(channels, strides, num_classes, a.stages, a.convs, a.linears, a.low_quality)

    def layer_decay_ids(self, rule: str = "layer") -> tuple[dict[str, int], int]:
        """The backbone's depth ids (see `ConvNeXt.layer_decay_ids`); the neck and the heads have the largest."""
        ids, last = self.backbone.layer_decay_ids(rule)
        ids = {f"backbone.{name}": depth for name, depth in ids.items()}
        return {name: ids.get(name, last) for name, _ in self.named_parameters()}, last

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """x (B, in_chans, H, W) -> five levels (B, 256, H/2^(i+2), W/2^(i+2)), i = 0..4."""
        return self.neck(list(self.backbone(x).values()))

    # -- prediction

    @torch.no_grad()
    def proposals(self, x: Tensor, image_sizes: Sequence[Size] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Proposals for the heads: for each image boxes (n, 4), n <= 1000, and scores (n,), best first."""
        levels = self.pyramid(x)
        return self.rpn_head.proposals(self.rpn_head(levels), levels, image_sizes_of(x, image_sizes), *TEST)

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        image_sizes: Sequence[Size] | None = None,
        output_sizes: Sequence[Size] | None = None,
        masks: str = "paste",
    ) -> list[Detections]:
        """Detect the objects in each image: score above 0.05, NMS 0.5 within a class, the best 100.

        Args:
            x: (B, in_chans, H, W) normalised, padded on the right and below.
            image_sizes: (height, width) of each image inside x; all of x unless given. Boxes are cut to it.
            output_sizes: (height, width) of the images that boxes and masks are for; `image_sizes` unless given.
            masks: "paste", or "none" for boxes alone.

        Returns:
            For each image `boxes` (N, 4) x1 y1 x2 y2 in pixels, `scores` (N,) descending, `labels` (N,) in 0..K-1,
            `masks` (N, height, width) bool.
        """
        if masks not in ("paste", "none"):
            raise ConvNextError(f"masks is {masks!r}; it must be 'paste' or 'none'.")
        insides = image_sizes_of(x, image_sizes)
        levels = self.pyramid(x)
        proposals = [boxes for boxes, _ in self.rpn_head.proposals(self.rpn_head(levels), levels, insides, *TEST)]
        detections = self.roi_head.predict(readable(levels), proposals, insides, masks == "paste")
        outsides = image_sizes_of(x, output_sizes or insides)
        return [on_original(*each) for each in zip(detections, insides, outsides, strict=True)]

    # -- training

    def losses(self, x: Tensor, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses by the reference's names, weighted; their sum is the training loss.

        Finite and with a gradient for every parameter, whatever the images show. Where no image has masks, the mask
        loss is 0. A crowd (`ignore`) is background like any other, as in the reference's configurations.

        Args:
            x: (B, in_chans, H, W) normalised.
            targets: for each image `boxes` (N, 4) x1 y1 x2 y2 in pixels, `labels` (N,) int64 in 0..K-1; optionally
                `masks` (N, H, W) bool, `size` (height, width) of the image inside x (all of x unless given), and
                `ignore` (m, 4).

        Raises:
            ConvNextError: the targets do not fit the images.
        """
        check_targets(x, targets)
        targets = [target | {"boxes": target["boxes"].float()} for target in targets]
        sizes = image_sizes_of(x, [target.get("size", x.shape[2:]) for target in targets])
        levels = self.pyramid(x)
        outputs = self.rpn_head(levels)
        losses = self.rpn_head.losses(outputs, levels, sizes, [t["boxes"] for t in targets], self.rpn_samples)
        proposals = self.rpn_head.proposals(outputs, levels, sizes, PER_LEVEL, self.architecture.proposals)
        proposals = [boxes for boxes, _ in proposals]
        return losses | self.roi_head.losses(readable(levels), proposals, targets, sizes, self.roi_samples)

    def forward(self, x: Tensor, targets: Sequence[dict[str, Tensor]] | None = None):
        """`losses(x, targets)` where targets are given, else `predict(x)`."""
        return self.predict(x) if targets is None else self.losses(x, targets)

    def macs_forward(self, x: Tensor) -> None:
        """Run what Table 3 counts, on any device, meta too: x (1, in_chans, 800, 1280), 1000 boxes, 100 masks per stage.

        RoIAlign, sorting and suppression are left out, as in the reference's count.
        """
        levels = self.pyramid(x)
        self.rpn_head(levels)
        for boxes, masks in zip(self.roi_head.box_heads, self.roi_head.mask_heads, strict=True):
            boxes(levels[0].new_empty(1000, boxes.channels, box_head.POOLED, box_head.POOLED))
            masks(levels[0].new_empty(100, masks.channels, mask_head.POOLED, mask_head.POOLED))


def image_sizes_of(x: Tensor, given: Sequence | None) -> list[Size]:
    """(height, width) of each image of the batch x, as integers."""
    sizes = [x.shape[2:]] * len(x) if given is None else given
    if len(sizes) != len(x):
        raise ConvNextError(f"There are {len(x)} images and {len(sizes)} sizes; give one (height, width) for each.")
    return [(int(height), int(width)) for height, width in sizes]


def on_original(detections: Detections, inside: Size, size: Size) -> Detections:
    """Bring detections in an image scaled to `inside` (height, width) to the image of `size`; masks, if any, from
    (N, 28, 28) inside the boxes to (N, *size)."""
    scale = [size[1] / inside[1], size[0] / inside[0]]
    boxes = detections["boxes"] * detections["boxes"].new_tensor(scale * 2)
    masks = {"masks": paste(detections["masks"], boxes, size)} if "masks" in detections else {}
    return detections | {"boxes": boxes} | masks


def readable(levels: Sequence[Tensor]) -> list[Tensor]:
    """The levels that proposals are read from, all but the coarsest, as RoIAlign wants them: fp32 and contiguous."""
    return [level.float().contiguous() for level in levels[:-1]]


def check_targets(x: Tensor, targets: Sequence[dict[str, Tensor]]) -> None:
    """Refuse what is not one target for each image of x with fitting shapes."""
    if len(targets) != len(x):
        raise ConvNextError(f"There are {len(x)} images and {len(targets)} targets; give a dict for each image.")
    for i, target in enumerate(targets):
        n = len(target["labels"])
        shapes = {"boxes": (n, 4)} | ({"masks": (n, *x.shape[2:])} if "masks" in target else {})
        for key, shape in shapes.items():
            if tuple(target[key].shape) != shape:
                raise ConvNextError(
                    f"Target {i} has {key} of shape {tuple(target[key].shape)}; with {n} labels and images padded to "
                    f"{x.shape[2]} x {x.shape[3]} they must be {shape}."
                )


def build(
    name: str,
    *,
    num_classes: int = 80,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    layer_scale_init_value: float = 1e-6,
    checkpoint_backbone: bool = False,
    rpn_samples: int | None = 256,
    roi_samples: int | None = 512,
) -> Detector:
    """A randomly initialised detector; `model.config` records its name and what its weights depend on.

    Args:
        name: `mask_rcnn_convnext_{atto..xlarge}` or `cascade_mask_rcnn_convnext_{atto..xlarge}`, see `SIZES`; or the heads
            around a network of timm, to compare with: `mask_rcnn+timm:resnet50`.
        num_classes: COCO's 80 by default; background is not among them.
        drop_path_rate, layer_scale_init_value: the backbone's, see `ConvNeXt`.
        checkpoint_backbone: trade time for memory in training, see `models.recompute`.
        rpn_samples, roi_samples: see `Detector`.

    Raises:
        ConvNextError: there is no such model.
    """
    rival = split_name(name)
    if name not in SIZES and (rival is None or rival[0] not in ARCHITECTURES):
        raise ConvNextError(f"There is no detector {name!r}.{nearest(name, SIZES)} There are: {', '.join(SIZES)}.")
    samples = {"num_classes": num_classes, "rpn_samples": rpn_samples, "roi_samples": roi_samples}
    if rival:
        model = Detector(TimmBackbone(rival[1], in_chans), ARCHITECTURES[rival[0]], **samples)
        model.config = {"name": name, "num_classes": num_classes, "in_chans": in_chans}
        return model
    kind, _, size = name.partition("_convnext_")
    options = {
        "in_chans": in_chans,
        "drop_path_rate": drop_path_rate,
        "layer_scale_init_value": layer_scale_init_value,
    }
    backbone = models.build(f"convnext_{size}", num_classes=None, **options)
    if checkpoint_backbone:
        recompute_blocks(backbone)
    model = Detector(backbone, ARCHITECTURES[kind], **samples)
    model.config = {"name": name, "num_classes": num_classes, **options}
    return model
