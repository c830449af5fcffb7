"""The auxiliary head: a small fully convolutional one on the stride-16 map, for training only (its loss counts 0.4)."""

from torch import Tensor, nn

from convnext.segmentation.pyramid import ConvNorm, classifier


class FCNHead(nn.Module):
    """Convolution 3x3 with norm and ReLU -> dropout -> 1x1 to the classes; names as in the reference's checkpoints."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1):
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(in_channels, channels, 3))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """The map of stage 2, (B, C2, H/16, W/16) -> logits (B, K, H/16, W/16)."""
        return self.conv_seg(self.dropout(self.convs(x)))
