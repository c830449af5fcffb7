"""Stochastic depth: a sample skips a block with a probability that grows with the block's depth.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016; the rates are in Table 5 of the paper.
"""

from torch import Tensor


def drop_path_scale(x: Tensor, rate: float, training: bool) -> Tensor | None:
    """The factor of each sample's branch, (B,) of 0 or 1 / (1 - rate); None where all are 1."""
    if rate == 0.0 or not training:
        return None
    keep = 1.0 - rate
    mask = x.new_empty(x.shape[0]).bernoulli_(keep)
    return mask / keep if keep > 0.0 else mask


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth of a branch x (B, ...)."""
    scale = drop_path_scale(x, rate, training)
    return x if scale is None else (x.transpose(0, -1) * scale).transpose(0, -1)  # without x.ndim, unknown to torch.fx


def drop_path_rates(maximum: float, blocks: int) -> list[float]:
    """Linear from 0 at the first block of the network to `maximum` at the last."""
    return [maximum * i / max(blocks - 1, 1) for i in range(blocks)]
