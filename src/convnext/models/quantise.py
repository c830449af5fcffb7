"""Post-training quantisation of a folded network's blocks to int8, by what its outputs lose on calibration images."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.models.int8 import CUTS, Int8Block, RoundedBlock, batches, observe, rounded_block
from convnext.models.packed import folded, pack
from convnext.models.sparing import Outputs, error

TRIED_ON = 16  # images, for the choice among WAYS
RANKED_ON = 4  # images, for the order in which blocks disturb
WAYS = tuple((smoothing, cuts) for smoothing in (0.0, 0.5) for cuts in ((1.0,), CUTS))


class Quantised:
    """The blocks of a folded fp32 network in int8, rounded in that one of `WAYS` that changes its outputs least.

    Attributes:
        plain: the network; names: of its blocks.
        rounded: their layers.
        way: (how much LayerNorm's channels are smoothed, shares of the ranges to choose from).
    """

    def __init__(self, plain: nn.Module, images: Sequence[Tensor]):
        """`images`: (3,H,W), as the network takes them.

        Raises:
            ConvNextError: a block is none of ConvNeXt's, or was changed.
        """
        self.plain, self.images = plain, images
        blocks = blocks_of(plain)
        self.names = list(blocks)
        seen = observe(plain, list(blocks.values()), images)
        tried, found = images[:TRIED_ON], []
        exact = self.outputs(plain, tried)
        for way in WAYS:
            rounded = [rounded_block(block, each, *way) for block, each in zip(blocks.values(), seen, strict=True)]
            self.rounded = dict(zip(self.names, rounded, strict=True))
            lost = error(exact, self.outputs(self.network([], torch.float32), tried))
            found.append((lost, way, self.rounded))
        self.lost, self.way, self.rounded = min(found, key=lambda each: each[0])
        self._expected: Outputs | None = None

    def network(self, kept: Sequence[int], dtype: torch.dtype) -> nn.Module:
        """The network for inference with all blocks but these in int8, the rest in `dtype`."""
        spared = {self.names[k] for k in kept}
        return installed(self.plain, {name: r for name, r in self.rounded.items() if name not in spared}, dtype)

    @torch.no_grad()
    def outputs(self, network: nn.Module, images: Sequence[Tensor] | None = None) -> Outputs:
        """Outputs of a form of the network for all calibration images, or some, in fp32."""
        dtype = next((p.dtype for p in network.parameters()), torch.float32)
        found = [network(x.to(dtype)) for x in batches(self.images if images is None else images)]
        return [{name: t.float() for name, t in y.items()} if isinstance(y, dict) else y.float() for y in found]

    def expected(self) -> Outputs:
        """The outputs of the network in fp32 for all calibration images."""
        if self._expected is None:
            self._expected = self.outputs(self.plain)
        return self._expected

    def disturbances(self) -> list[int]:
        """The blocks, the one first that changes the outputs most when it alone is in int8."""
        images = self.images[:RANKED_ON]
        exact = self.outputs(self.plain, images)
        everyone = range(len(self.names))
        changes = [
            error(exact, self.outputs(self.network([i for i in everyone if i != k], torch.float32), images))
            for k in everyone
        ]
        return sorted(everyone, key=lambda k: -changes[k])


def blocks_of(plain: nn.Module) -> dict[str, Block]:
    """The blocks of a folded network, by name.

    Raises:
        ConvNextError: there are none, or one is not as it was built.
    """
    blocks = {name: module for name, module in plain.named_modules() if isinstance(module, Block)}
    changed = next((name for name, block in blocks.items() if folded(block) is None), None)
    if changed is not None or not blocks:
        what = (
            f"{changed} is a variant of it, or was changed or is watched by a hook"
            if changed
            else "this model has none"
        )
        raise ConvNextError(
            f"int8 knows ConvNeXt's own block (depthwise convolution, LayerNorm, two linear layers), and {what}. Use bf16 or "
            "fp32, or export the model to openvino or onnx in int8."
        )
    return blocks


def installed(plain: nn.Module, rounded: dict[str, RoundedBlock], dtype: torch.dtype) -> nn.Module:
    """A copy for inference of a folded network, in `dtype`, with these blocks in int8."""
    network = deepcopy(plain)
    for name, layers in rounded.items():
        block = network.get_submodule(name)
        assert isinstance(block, Block)
        network.set_submodule(name, Int8Block(block, layers, dtype))
    network.to(dtype)
    pack(network)
    return network
