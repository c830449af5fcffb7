"""Write weights in any of the formats that can be read, without ever leaving half a file in place."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from convnext.errors import ConvNextError, nearest
from convnext.files import replace, replace_text, to_json
from convnext.weights import metadata as schema
from convnext.weights import transformers
from convnext.weights.digest import digest
from convnext.weights.files import DIGEST_KEY, METADATA_KEY, write_safetensors
from convnext.weights.load import FORMATS
from convnext.weights.names import Tensors, strip_wrappers


def save_weights(
    model_or_tensors: nn.Module | Tensors, path: str | Path, format: str = "safetensors", metadata: dict | None = None
) -> Path:
    """Save a model, or tensors in our names; precisions stay as they are, and an existing file is replaced at once.

    Args:
        path: the file, or the folder for `transformers`. Missing folders are made.
        format: `safetensors` (ours: the tensors, and as metadata all that `load_model` needs), `official` (`.pth`, the
            tensors under `model`), `timm` and `torchvision` (plain tensors; safetensors where the path ends so, else
            `torch.save`), or `transformers` (a folder for `from_pretrained`, with the processor's settings).
        metadata: JSON values to keep with our format (a number that is not finite becomes null); `classes` and
            `preprocess` also reach `transformers`. The model's name, options and number of classes are added.

    Returns:
        The path.

    Raises:
        ConvNextError: unknown format, a model that the format cannot hold, metadata that could not be read again, or the
            file cannot be written.
    """
    path, metadata = Path(path), dict(metadata or {})
    if format not in ("safetensors", *FORMATS):
        known = ["safetensors", *FORMATS]
        raise ConvNextError(f"There is no format {format!r}.{nearest(format, known)} Known are {', '.join(known)}.")
    if isinstance(model_or_tensors, nn.Module):
        metadata = {**_described(model_or_tensors), **metadata}
        model_or_tensors = model_or_tensors.state_dict()
    tensors = {name: t.detach().cpu().contiguous() for name, t in strip_wrappers(model_or_tensors).items()}
    if format == "safetensors":
        text = to_json(dict(sorted(metadata.items())))
        schema.read(text, path)
        header = {"format": "pt", METADATA_KEY: text, DIGEST_KEY: digest(tensors, text)}
        _replace(path, lambda file: write_safetensors(file, tensors, header))
        return path
    stride = (metadata.get("model") or {}).get("stem_stride", 4)
    if stride != 4:
        raise ConvNextError(
            f"The {format} format has no stem of stride {stride}: the model would compute something else there. Save "
            "as 'safetensors', which keeps the stride."
        )
    renamed = FORMATS[format].from_ours(tensors)
    if format == "transformers":
        _replace(path / "model.safetensors", lambda file: write_safetensors(file, renamed, {"format": "pt"}))
        for name, config in transformers.configs(tensors, metadata).items():
            replace_text(path / name, json.dumps(config, indent=2))
    elif format == "official":
        _replace(path, lambda file: torch.save({"model": renamed}, file))
    elif path.suffix == ".safetensors":
        _replace(path, lambda file: write_safetensors(file, renamed, {"format": "pt"}))
    else:
        _replace(path, lambda file: torch.save(renamed, file))
    return path


def _described(model: nn.Module) -> dict:
    """The metadata that `load_model` needs; a model that was built without the registry has no name to record."""
    config = getattr(model, "config", None)
    return ({"model": config} if config else {}) | {"num_classes": model.num_classes}


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    try:
        replace(path, write)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save answers a full disk with a RuntimeError
        raise ConvNextError(
            f"{path} could not be written: {error}. What was there before is untouched; free some space, or choose "
            "another place."
        ) from error
