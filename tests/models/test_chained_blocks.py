"""What blocks hand each other, and when each is called as everything else is."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from convnext.models import block as block_module
from convnext.models.block import Block, Blocks
from convnext.models.convnext import ConvNeXt
from convnext.models.isotropic import IsotropicConvNeXt
from convnext.ops import backend


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    return Blocks(*(Block(8, layer_scale_init_value=1.0) for _ in range(3)))


@pytest.fixture
def handed(monkeypatch):
    """Runs blocks where Triton could run, which it pretends: the flags `pair` of those that were given pairs."""
    seen = []

    def forward_pair(self, x, twin, pair, whole=Block.forward_pair):
        seen.append(pair)
        return whole(self, x, twin, pair)

    def run(blocks, expected):
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(block_module, "TRITON", replace(backend.TRITON, pays=lambda x: True, cannot=lambda x: ""))
            patch.setattr(Block, "forward_pair", forward_pair)
            torch.testing.assert_close(blocks(images()), expected, rtol=1e-5, atol=1e-5)
        return seen

    return run


def images():
    return torch.randn(1, 2, 2, 8, generator=torch.Generator().manual_seed(1))


def test_pairs_go_to_those_that_nobody_watches(blocks, handed):
    """A watched block is called, and runs alone; one with a watched part runs its parts."""
    expected = blocks(images())
    assert handed(blocks, expected) == [True, True, False]
    for block, alone in ((blocks[1], [False, False, False]), (blocks[2], [True, False, False])):
        hook = block.register_forward_hook(lambda *_: None)
        assert handed(blocks, expected) == alone
        hook.remove()
        hook = block.norm.register_forward_hook(lambda *_: None)
        assert handed(blocks, expected) == alone[:2]
        hook.remove()
        block.forward = block.forward
        assert handed(blocks, expected) == alone
        del block.forward
        block._compiled_call_impl = block._call_impl  # as `block.compile()` leaves it
        assert handed(blocks, expected) == alone
        block._compiled_call_impl = None
    assert handed(blocks, expected) == [True, True, False]
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert handed(blocks, expected) == []
    hook.remove()


def test_pairs_go_to_stock_blocks_only(blocks, handed):
    class Own(Block):
        pass

    own = copy.deepcopy(blocks)
    own[1].__class__ = Own
    assert handed(own, blocks(images())) == [False] * 3
    blocks[1] = nn.Identity()
    assert handed(blocks, blocks(images())) == [False, False]
    blocks[0] = nn.Identity()
    assert handed(blocks, blocks(images())) == [False]
    assert torch.equal(Blocks()(images()), images())


def test_the_stages_of_the_networks_are_blocks():
    model = ConvNeXt((1, 2, 1, 1), (8, 8, 8, 8))
    assert [type(stage) for stage in model.stages] == [Blocks] * 4
    assert type(model.stages[1][:1]) is Blocks
    assert type(IsotropicConvNeXt(2, 8).blocks) is Blocks
