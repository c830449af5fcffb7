"""Open an exported file of any format: something that is called like the model it was made of."""

import importlib
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.export.formats import SUFFIXES
from convnext.export.metadata import Metadata

BACKENDS = {"onnx": "onnx", "openvino": "openvino", "torch-export": "torch_export", "aot-inductor": "aot"}

OTHER_SIZES = {
    "classification": "Export with --dynamic batch,size for other sizes.",
    "segmentation": "Larger pictures are cut into windows of that size first.",
    "detection": "Export without --image-size for pictures of any size.",
}


def backend_of(format: str):
    """The module that writes, loads and reads the metadata of a format."""
    return importlib.import_module(f"convnext.export.{BACKENDS[format]}")


class Exported(nn.Module):
    """An exported file as a module: images (B, 3, H, W) -> fp32 logits, computed on the CPU in the file's own precision.

    Where the file has a fixed number of images, calls are cut into as many and the last is filled up. Segmenters and
    detectors of a fixed size take smaller pictures too, with zeros (the mean colour) at their right and lower borders.
    """

    def __init__(self, file: Path, metadata: Metadata):
        super().__init__()
        self.file, self.metadata, self.num_classes = file, metadata, len(metadata.classes)
        # callers ask a model's first parameter where it is
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self.run = backend_of(metadata.format).load(file, metadata)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        device, (height, width) = images.device, images.shape[2:]
        with torch.autocast("cpu", enabled=False):
            x = self._fitting(images.detach().float().cpu())
            logits = torch.cat([self._call(part) for part in x.split(self.metadata.batch or len(x))])
        if logits.ndim == 4:
            logits = logits[:, :, :height, :width]
        return logits.to(device)

    def _call(self, x: Tensor) -> Tensor:
        short = (self.metadata.batch or len(x)) - len(x)
        (logits,) = self.run(torch.cat([x, x[:1].expand(short, -1, -1, -1)]) if short else x.contiguous())
        return logits[: len(x)]

    def _fitting(self, x: Tensor) -> Tensor:
        """x as the file wants it, or an error."""
        metadata, (height, width) = self.metadata, x.shape[2:]
        padded = metadata.task != "classification"
        if metadata.size is None:
            missing = max(metadata.smallest - height, 0), max(metadata.smallest - width, 0)
            if any(missing) and not padded:
                raise ConvNextError(
                    f"{self.file} got images of {height} x {width}; it takes sides of at least {metadata.smallest} pixels."
                )
        else:
            missing = metadata.size[0] - height, metadata.size[1] - width
            if any(missing) and (not padded or min(missing) < 0):
                raise ConvNextError(
                    f"{self.file} got images of {height} x {width} pixels; it is exported for "
                    f"{metadata.size[0]} x {metadata.size[1]}. {OTHER_SIZES[metadata.task]}"
                )
        return F.pad(x, (0, missing[1], 0, missing[0])).contiguous()


def is_exported(name: str | Path) -> bool:
    """Whether a path is that of an exported file, by its suffix."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_metadata(name: str | Path) -> Metadata:
    """What an exported file says about itself.

    Raises:
        ConvNextError: the file is damaged, not from `convnext export`, or needs an extra that is not installed.
    """
    file = Path(name)
    module = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch_export"}[file.suffix.lower()]
    try:
        text = importlib.import_module(f"convnext.export.{module}").read_metadata(file)
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ConvNextError(
            f"{file} cannot be read: it is damaged or incomplete ({error}). Export the checkpoint again."
        ) from error
    return Metadata.from_json(text, file)


def open_exported(name: str | Path) -> Exported:
    """The model in an exported file; errors as `read_metadata`."""
    file, metadata = Path(name), read_metadata(name)
    return opened(file, metadata)


def opened(file: Path, metadata: Metadata) -> Exported:
    """The module for a file that is described by `metadata`."""
    if metadata.task != "detection":
        return Exported(file, metadata).eval()
    from convnext.export.exported_detector import ExportedDetector  # torchvision takes seconds

    return ExportedDetector(file, metadata).eval()
