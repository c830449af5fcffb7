"""Batches on their way to the device."""

from dataclasses import replace

import pytest
import torch

from convnext.data.device import ToDevice
from convnext.data.loader import Batch


def batch() -> Batch:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 4, 4, 3).permute(0, 3, 1, 2)
    return Batch(images, [{"boxes": torch.ones(1, 4)}, {"boxes": torch.zeros(0, 4)}], [5, 3], [], torch.ones(2, 5))


def finish(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.float(), erase=None)


def test_a_batch_arrives_finished():
    given = batch()
    found = ToDevice(torch.device("cpu"), finish)(given)
    assert torch.equal(found.images, given.images.float())
    assert found.erase is None
    assert found.indices == [5, 3]
    assert len(found.tensors()) == 3


@pytest.mark.gpu
def test_a_batch_arrives_finished_on_a_stream_of_its_own():
    given = batch()
    found = ToDevice(torch.device("cuda"), finish)(given.pin_memory())
    assert found.images.is_cuda
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.images.cpu(), given.images.float())
