"""One digest over tensors and metadata, so that damage to a file of weights is noticed."""

import hashlib
import json

import torch
from torch import Tensor


def digest(tensors: dict[str, Tensor], metadata: str) -> str:
    """SHA-256, hexadecimal, over the metadata's text and every tensor's name, type, shape and bytes, in order of names."""
    total = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(raw(tensor))
    return total.hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous on the CPU."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
