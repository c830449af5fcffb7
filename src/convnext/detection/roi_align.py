"""torchvision's RoIAlign, aligned and with adaptive sampling, on all cores."""

from concurrent.futures import ThreadPoolExecutor

import torch
import torchvision
from torch import Tensor

FEW = 32  # boxes for which threads are not worth starting


def roi_align(level: Tensor, proposals: Tensor, side: int, stride: float) -> Tensor:
    """level (B, C, h, w) contiguous, proposals (n, 5): number of the image, box in pixels -> (n, C, side, side).

    torchvision's runs on one core of a CPU. Where no gradient is asked for, PyTorch's number of threads share the boxes: the
    result is the same to the bit.
    """

    def align(part: Tensor) -> Tensor:
        return torchvision.ops.roi_align(level, part, side, 1 / stride, sampling_ratio=0, aligned=True)

    threads = min(torch.get_num_threads(), len(proposals) // FEW)
    if level.device.type != "cpu" or torch.is_grad_enabled() or threads < 2:
        return align(proposals)
    inference = torch.is_inference_mode_enabled()  # it is the thread's own

    def without_gradient(part: Tensor) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return align(part)

    with ThreadPoolExecutor(threads) as workers:
        return torch.cat(list(workers.map(without_gradient, proposals.tensor_split(threads))))
