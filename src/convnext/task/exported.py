"""An exported file: what it says about itself, and the module that calls it like the model it was made of."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.weights.metadata import Exported as ExportedFile
from convnext.weights.metadata import read

KEY = "convnext"  # ONNX: metadata_props; OpenVINO: rt_info; the two of PyTorch: a file convnext.json in the archive


@dataclass(frozen=True)
class Metadata:
    """Description of an exported file: enough to use it, and to measure it, without the checkpoint.

    Attributes:
        task, model: name of the task, and of the network.
        format, precision: see `export.formats`.
        classes: labels in the order of the outputs; `names` for people, where they are others.
        preprocess: fields of the task's preprocessing.
        inputs, outputs: names of the graph's inputs and outputs.
        batch: images in one call; None for any number.
        size: (height, width) of the input; None for any, of at least `smallest` pixels a side.
        thresholds: of several labels per image, the probability from which each class applies; None: one class does.
        pads: True if smaller images are padded with zeros to what the file takes.
        kept: layers, or blocks, that int8 spares: those that cut patches, and those that the measured agreement asked for.
        build: name and options of the network, for a file that this package runs by itself.
        data: the training data and how it was split (see `task.engine`), so that evaluation knows the held-out part.
        versions: of the packages that made it.
    """

    task: str
    model: str
    format: str
    precision: str
    classes: list[str]
    preprocess: dict
    batch: int | None = None
    size: tuple[int, int] | None = None
    smallest: int = 1
    in_chans: int = 3
    names: list[str] | None = None
    thresholds: list[float] | None = None
    inputs: tuple[str, ...] = ("images",)
    outputs: tuple[str, ...] = ("logits",)
    pads: bool = False
    kept: list[str] = field(default_factory=list)
    build: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """All fields as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, file: Path) -> "Metadata":
        """The inverse of `to_json`.

        Raises:
            ConvNextError: `file` has no metadata, or other fields, types or sizes than are expected.
        """
        if not text:
            raise ConvNextError(
                f"{file} does not say what it is: it has no metadata of `convnext export`. Export the checkpoint again."
            )
        values = read(text, file, schema=ExportedFile)
        for name in ("size", "inputs", "outputs"):
            if values.get(name):
                values[name] = tuple(values[name])
        return cls(**values)


class Exported(nn.Module):
    """An exported file as a module: images (B, 3, H, W) -> fp32 outputs, computed on the CPU in the file's own precision.

    Where the file has a fixed number of images, calls are cut into as many and the last is filled up. A file whose
    metadata says `pads` takes smaller images too, with zeros (the mean colour) at their right and lower borders.
    """

    note = ""  # a sentence about how it computes on this machine, if not as its file says

    def __init__(self, file: Path, metadata: Metadata, run: Callable[..., Sequence[Tensor]], other_sizes: str = ""):
        """`run` calls the file with tensors; `other_sizes` tells people how images of another size can be used."""
        super().__init__()
        self.file, self.metadata, self.num_classes = file, metadata, len(metadata.classes)
        self.run, self.other_sizes = run, other_sizes
        # callers ask a model's first parameter where it is
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, K) or (B, K, H, W) fp32, on the device of the images."""
        device, (height, width) = images.device, images.shape[2:]
        with torch.autocast("cpu", enabled=False):
            x = self.fitting(images.detach().float().cpu())
            outputs = torch.cat([self._call(part) for part in x.split(self.metadata.batch or len(x))])
        if outputs.ndim == 4:
            outputs = outputs[:, :, :height, :width]
        return outputs.to(device)

    def _call(self, x: Tensor) -> Tensor:
        short = (self.metadata.batch or len(x)) - len(x)
        (outputs,) = self.run(torch.cat([x, x[:1].expand(short, -1, -1, -1)]) if short else x.contiguous())
        return outputs[: len(x)]

    def fitting(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) padded to a size that the file takes.

        Raises:
            ConvNextError: the file takes no images of this size.
        """
        metadata, (height, width) = self.metadata, x.shape[2:]
        if metadata.size is None:
            missing = max(metadata.smallest - height, 0), max(metadata.smallest - width, 0)
            if any(missing) and not metadata.pads:
                raise ConvNextError(
                    f"{self.file} got images of {height} x {width}; it takes sides of at least {metadata.smallest} pixels."
                )
        else:
            missing = metadata.size[0] - height, metadata.size[1] - width
            if any(missing) and (not metadata.pads or min(missing) < 0):
                raise ConvNextError(
                    f"{self.file} got images of {height} x {width} pixels; it is exported for "
                    f"{metadata.size[0]} x {metadata.size[1]}. {self.other_sizes}"
                )
        return F.pad(x, (0, missing[1], 0, missing[0])).contiguous()
