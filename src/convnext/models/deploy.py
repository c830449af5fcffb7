"""`model.deploy()`: a copy for inference, with constants folded away and the fastest path of the device it is on.

The constants go into the layers beside them (`models.fold`). On a CPU the weights are also packed for oneDNN
(`models.packed`), and in int8 the blocks multiply bytes (`models.int8`); on a GPU the kernels of `ops` run in bf16 without
affine parts. What somebody changed or watches is copied as it is and runs its parts; int8 refuses blocks of that kind.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError, nearest
from convnext.models.block import Block
from convnext.models.deployed import Deployed
from convnext.models.fold import Foldable, fold
from convnext.models.packed import pack
from convnext.models.quantise import Quantised
from convnext.models.sparing import agreement as agreement_of
from convnext.models.sparing import spare
from convnext.ops import backend, onednn, onednn_int8
from convnext.ops.rule import PLAIN
from convnext.runtime.graphs import Replays

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Deployable(Foldable):
    """A network that can be deployed."""

    def deploy(
        self,
        precision: str = "auto",
        calibration: Tensor | Sequence[Tensor] | None = None,
        agreement: float = 99.0,
        bf16_rows: bool = False,
        cuda_graphs: bool = False,
    ) -> Deployed:
        """An inference copy, the fastest there is on this device: see `models.deploy.deploy`."""
        return deploy(self, precision, calibration, agreement, bf16_rows, cuda_graphs)


def deploy(
    model: nn.Module,
    precision: str = "auto",
    calibration: Tensor | Sequence[Tensor] | None = None,
    agreement: float = 99.0,
    bf16_rows: bool = False,
    cuda_graphs: bool = False,
) -> Deployed:
    """An inference copy of a ConvNeXt or isotropic ConvNeXt: same inputs and outputs, same device, no gradients.

    Args:
        precision: fp32, bf16 (weights and activations), auto: bf16 where the processor multiplies it faster, else fp32; or int8 on
            a CPU: products in the blocks of bytes, all else as in auto. Where int8 is not possible the copy is that of auto,
            and its `why` says so.
        calibration: for int8: normalised images (N,3,H,W), or a list of (3,H,W), like those of the task; a hundred or more.
        agreement: for int8: the least share of the calibration images with the same top-1 as in fp32, in percent (of a
            backbone: of the maps' mean square); blocks are spared until it is reached.
        bf16_rows: on a GPU in bf16, sum the products of each row of the depthwise kernels in bf16, too: fewer instructions for a
            larger error (docs/kernels.md).
        cuda_graphs: on a GPU, record the work for each shape of images (the last eight) and replay it with one launch: for few
            images at a time, where launching the kernels takes longer than they do. One thread at a time. No GPU has run it yet.

    Raises:
        ConvNextError: an unknown precision, a model that cannot be copied or whose weights are quantized; for int8 also a
            model on a GPU or with other blocks than ConvNeXt's, no images, or an agreement that is not reached; for `bf16_rows`
            another device or precision, for `cuda_graphs` another device.
    """
    device = next(model.parameters()).device
    chosen, why = choose("auto" if precision == "int8" else precision, device)
    for name, module in model.named_modules():
        parameters = module.parameters(recurse=False)
        if type(module).__module__.startswith(("torch.ao.", "torchao.")) or any(
            type(p) not in PLAIN for p in parameters
        ):
            raise ConvNextError(
                f"{name or 'The model'} is a {type(module).__name__} with quantized or distributed weights, which cannot be "
                "deployed. Deploy the model as it was before, or use this one as it is."
            )
    if bf16_rows and (
        chosen != "bf16" or precision == "int8" or not (device.type == "cuda" or backend.chosen() == "triton")
    ):
        raise ConvNextError(
            f"bf16_rows is for bf16 on a GPU; the model is on {device} and computes in {chosen}. Leave it out, or move the model "
            "to a GPU and take bf16."
        )
    if cuda_graphs and device.type != "cuda":
        raise ConvNextError(f"cuda_graphs is for a GPU, and the model is on {device}. Leave it out, or move the model.")
    if precision == "int8":
        if device.type != "cpu":
            raise ConvNextError(
                f"int8 is for CPUs, and the model is on {device}. Move it with model.cpu() first, or use bf16."
            )
        if not (lacking := onednn_int8.lacking()):
            return deploy_int8(model, calibration, agreement, PRECISIONS[chosen])
        why = f"{lacking} So it computes in {chosen}."
    copy = fold(model).to(PRECISIONS[chosen])
    for block in (module for module in copy.modules() if isinstance(module, Block) and bf16_rows):
        block.bf16_rows = True
    if device.type == "cpu" and backend.chosen() == "auto" and onednn.usable(PRECISIONS[chosen]):
        pack(copy)
    return Deployed(copy, chosen, why, PRECISIONS[chosen], Replays() if cuda_graphs else None)


def deploy_int8(
    model: nn.Module, calibration: Tensor | Sequence[Tensor] | None, goal: float, dtype: torch.dtype
) -> Deployed:
    """The copy whose blocks multiply bytes, with as many of them in `dtype` as the agreement asks for."""
    images = list(calibration) if calibration is not None else []
    if not images:
        raise ConvNextError(
            'int8 needs images to measure the ranges of the activations on: model.deploy("int8", calibration=images) with '
            "normalised images (N, 3, H, W) like those of the task, a hundred or more."
        )
    made = Quantised(fold(model).float(), images)

    def build(kept: list[int]) -> tuple[nn.Module, float]:
        network = made.network(kept, dtype)
        return network, agreement_of(made.expected(), made.outputs(network))

    advice = "Give more images that look like those of the task, a lower agreement, or use bf16."
    network, kept = spare(len(made.names), build, made.disturbances, goal, advice)
    spared = f"; spared: {', '.join(made.names[k] for k in kept)}" if kept else ""
    return Deployed(network, "int8", f"asked for{spared}", dtype)


def choose(precision: str, device: torch.device) -> tuple[str, str]:
    """(precision, the reason in words)."""
    if precision in PRECISIONS:
        return precision, "asked for"
    if precision != "auto":
        names = [*PRECISIONS, "auto"]
        raise ConvNextError(f"Precision {precision!r} is unknown; use {', '.join(names)}.{nearest(precision, names)}")
    if device.type == "cuda":
        fast, what = torch.cuda.get_device_capability(device) >= (8, 0), "this GPU"
    else:
        fast, what = device.type == "cpu" and onednn.bf16_pays(), "this processor"
        if device.type == "cpu" and onednn.bf16() and not fast:
            return "fp32", f"{what} multiplies fp32 faster than bf16"
    return ("bf16", f"{what} multiplies bf16") if fast else ("fp32", f"{what} has no arithmetic for bf16")
