"""Batches on their way to the device."""

from collections.abc import Callable

import torch

from convnext.data.loader import Batch


class ToDevice:
    """Copies a batch to the device and finishes it there.

    On a GPU this has a stream of its own: the process runs ahead of the device, so the next batch is copied from pinned
    memory while the step before still computes, and the step after waits for its batch alone.
    """

    def __init__(self, device: torch.device, finish: Callable[[Batch], Batch] = lambda batch: batch):
        self.device, self.finish = device, finish
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        if self.stream is None:
            return self.finish(batch.to(self.device))
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            batch = self.finish(batch.to(self.device))
        computing.wait_stream(self.stream)
        for tensor in batch.tensors():
            tensor.record_stream(computing)  # its memory is used there, too: no early reuse by the next copy
        return batch
