"""Use a ConvNeXt as the backbone of somebody else's detector: torchvision's Faster R-CNN.

    python examples/own_detector.py --weights convnext_tiny.in22k --model convnext_tiny
    python examples/own_detector.py                                # a small backbone from random weights

The backbone publishes `channels` and `strides` of its feature maps, so the neck and the anchors are built from what it
says and fit any size. The images are drawn: circles, rectangles and triangles.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

import convnext
from convnext.data.shapes import SHAPES, box, draw_scene


class Pyramid(nn.Module):
    """Images (B, 3, H, W) -> a map of `out_channels` for each stage of the backbone, as torchvision's detectors want."""

    out_channels = 128

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.neck = FeaturePyramidNetwork(list(body.channels.values()), self.out_channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.neck(self.body.feature_maps(x))


def sample(index: int, side: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A drawn image (3, H, W) in 0..1, and its boxes (n, 4) x1 y1 x2 y2 with labels from 1 (0 is the background)."""
    scene = draw_scene(seed=0, index=index, size=side, crowds=0.0)
    left_top_sizes = np.array([box(mask) for mask in scene.masks], np.float32)
    corners = np.hstack([left_top_sizes[:, :2], left_top_sizes[:, :2] + left_top_sizes[:, 2:]])
    image = torch.from_numpy(scene.picture).permute(2, 0, 1) / 255
    return image, {"boxes": torch.from_numpy(corners), "labels": torch.from_numpy(scene.labels) + 1}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="convnext_atto")
parser.add_argument("--weights", help="checkpoint or released model for the backbone")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--side", type=int, default=128, help="of the drawn images, in pixels")
arguments = parser.parse_args()
torch.manual_seed(0)

body = convnext.create_model(arguments.model, weights=arguments.weights, num_classes=None)  # None: no head, a backbone
anchors = AnchorGenerator(tuple((4 * stride,) for stride in body.strides.values()), ((0.5, 1.0, 2.0),) * 4)
pooled = MultiScaleRoIAlign(list(body.channels), output_size=7, sampling_ratio=2)
sizes = {"min_size": arguments.side, "max_size": 2 * arguments.side}
detector = FasterRCNN(Pyramid(body), 1 + len(SHAPES), rpn_anchor_generator=anchors, box_roi_pool=pooled, **sizes)

optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-4)
for step in range(arguments.steps):
    images, targets = zip(*(sample(2 * step + k, arguments.side) for k in range(2)), strict=True)
    losses = detector.train()(list(images), list(targets))
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    if step % 20 == 0 or step == arguments.steps - 1:
        print(f"step {step:4}  " + "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))

with torch.inference_mode():
    (found,) = detector.eval()([sample(10**6, arguments.side)[0]])
for corners, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
    if score >= 0.5:
        print(f"{SHAPES[label - 1]:9}  {score:.2f}  {[round(value) for value in corners.tolist()]}")
