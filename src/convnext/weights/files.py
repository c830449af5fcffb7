"""Open a checkpoint file without running what may be in it; its container is told by its first bytes."""

import argparse
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from convnext.errors import ConvNextError

METADATA_KEY = "convnext"  # in the header of our safetensors files
READER_ERRORS = (OSError, RuntimeError, EOFError, IndexError, SafetensorError)  # seen on truncated and foreign files


def weights_file(folder: Path) -> Path:
    """The file of weights in a `save_pretrained` folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    raise ConvNextError(
        f"The folder {folder} has neither model.safetensors nor pytorch_model.bin. Give a folder that "
        "`save_pretrained` wrote, or a checkpoint file."
    )


def read(file: Path) -> tuple[dict, str | None]:
    """The content of a checkpoint file as it is nested there, and our metadata (JSON) if it is one of ours.

    Raises:
        ConvNextError: the file cannot be opened, is no checkpoint, is damaged, or holds more than tensors and plain
            values.
    """
    try:
        with open(file, "rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise ConvNextError(f"{file} cannot be opened: {error.strerror}.") from error
    try:
        if head[8:9] == b"{":  # after the length of the header in 8 bytes
            with safe_open(file, framework="pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  it is no dict
                return tensors, (stream.metadata() or {}).get(METADATA_KEY)
        if head.startswith((b"PK\x03\x04", b"\x80")):
            # released training checkpoints keep their command line in a Namespace: an inert container of plain values
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=head.startswith(b"PK"))
            if isinstance(content, dict):
                return content, None
            raise ConvNextError(
                f"{file} holds a {type(content).__name__}, and a checkpoint is a dict of tensors by name."
            )
    except pickle.UnpicklingError as error:
        if culprit := re.search(r"GLOBAL (\S+)", str(error)):
            raise ConvNextError(
                f"{file} holds more than tensors and plain values ({culprit[1]}). Opening it could run code of "
                "whoever made it, so it was not opened. Ask for a file that holds only the weights, as "
                "`torch.save(model.state_dict(), path)` makes it, or a safetensors file."
            ) from None
        raise _damaged(file, error) from error
    except READER_ERRORS as error:
        raise _damaged(file, error) from error
    raise ConvNextError(f"{file} is not a checkpoint: {_guess(head)} Expected is a file of torch.save or safetensors.")


def _damaged(file: Path, error: Exception) -> ConvNextError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConvNextError(f"{file} cannot be read: it is damaged or incomplete ({reason}). Copy or download it again.")


def _guess(head: bytes) -> str:
    """What a file that is no checkpoint is instead."""
    if not head:
        return "it is empty."
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer to a file that was not fetched; run `git lfs pull` in its repository."
    if head.lstrip().startswith(b"<"):
        return "it is a web page, probably an error page saved in place of a download; download it again."
    return f"it begins with {head[:12]!r}."
