"""A classifier under test, with its preprocessing taken apart: images are corrupted between crop and normalisation."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T

from convnext.paper import Robustness
from convnext.robustness.units import View
from convnext.tasks import Opened

IMAGENET_C_SIZE = 224
"""Side in pixels of the images of ImageNet-C and ImageNet-C-bar."""


@dataclass
class Subject:
    """A classifier under test.

    Attributes:
        name: as it was asked for.
        model: (B, 3, size, size) normalised -> (B, K) logits, in evaluation mode.
        classes: K labels; of models of ImageNet-1K, its wordnet ids.
        resize_crop: RGB image of any size -> the model's input, not yet normalised.
        normalize: RGB image -> (3, H, W) float.
        preprocess: both in words, for the results file.
        paper_row: its row of Table 8, if it has one.
        opened: of one of ours, the model with what is known of its training data.
    """

    name: str
    model: nn.Module
    classes: list[str]
    resize_crop: Callable[[Image.Image], Image.Image]
    normalize: Callable[[Image.Image], Tensor]
    preprocess: dict
    paper_row: Robustness | None = None
    opened: Opened | None = None

    @property
    def size(self) -> int:
        """Side of the input in pixels."""
        return self.resize_crop(Image.new("RGB", (512, 512))).width

    def transform(self, view: View) -> Callable[[Image.Image], Tensor]:
        """RGB image -> (3, size, size) float.

        `image`: the model's own preprocessing. `crop`: images of 224 px as ImageNet-C has them, centre crop without
        resize; a model of another size sees that crop scaled to it (the paper does not say what its models of 384 px
        saw). `input`: of the input's size already.
        """
        if view == "input":
            return self.normalize
        if view == "image":
            return T.Compose([self.resize_crop, self.normalize])
        crop, size = T.CenterCrop(IMAGENET_C_SIZE), self.size
        if size == IMAGENET_C_SIZE:
            return T.Compose([crop, self.normalize])
        return T.Compose([crop, T.Resize((size, size), T.InterpolationMode.BICUBIC), self.normalize])

    def identity(self, precision: str) -> dict:
        """Facts that a result depends on besides the images: weights, precision, preprocessing."""
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return {"weights_sha256": digest.hexdigest(), "precision": precision, "preprocess": self.preprocess}
