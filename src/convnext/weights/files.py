"""Open a checkpoint file without running what may be in it; its container is told by its first bytes."""

import argparse
import json
import pickle
import re
import struct
import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from convnext.errors import ConvNextError
from convnext.weights.digest import digest, raw

METADATA_KEY, DIGEST_KEY = "convnext", "sha256"  # in the header of our safetensors files
MOST_TENSORS = 20_000  # the largest model here has 1,300
LONGEST_HEADER = 32 << 20  # bytes
LONGEST_PICKLE = 64 << 20  # bytes: the part of a .pt file that is not tensors
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def weights_file(folder: Path) -> Path:
    """The file of weights in a `save_pretrained` folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    raise ConvNextError(
        f"The folder {folder} has neither model.safetensors nor pytorch_model.bin. Give a folder that "
        "`save_pretrained` wrote, or a checkpoint file."
    )


def read(file: Path, verify: bool = True) -> tuple[dict, str | None]:
    """The content of a checkpoint file as it is nested there, and our metadata (JSON) if it is one of ours.

    Args:
        verify: compare the tensors with the digest that our files carry; it reads all bytes of them.

    Raises:
        ConvNextError: the file cannot be opened, is no checkpoint, is damaged, or holds more than tensors and plain
            values.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise ConvNextError(f"{file} cannot be opened: {error.strerror}.") from error
    if head[8:9] == b"{":  # after the length of the header in 8 bytes
        return _read_safetensors(file, head, verify)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle(file, size, head.startswith(b"PK")), None
    raise ConvNextError(f"{file} is not a checkpoint: {_guess(head)} Expected is a file of torch.save or safetensors.")


def read_header(file: Path) -> str | None:
    """Our metadata (JSON) in a safetensors file, without reading its tensors.

    Raises:
        ConvNextError: the file cannot be opened, is damaged, or is none.
    """
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
        if head[8:9] != b"{":
            raise ConvNextError(f"{file} is no safetensors file: {_guess(head)}")
        _check_header(file, head)
        with safe_open(file, framework="pt") as stream:
            return (stream.metadata() or {}).get(METADATA_KEY)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise _damaged(file, error) from error


def _check_header(file: Path, head: bytes) -> None:
    if (length := struct.unpack("<Q", head[:8])[0]) > LONGEST_HEADER:
        raise _damaged(file, f"its header claims {length:,} bytes, more than {LONGEST_HEADER:,}")


def _read_safetensors(file: Path, head: bytes, verify: bool) -> tuple[dict[str, Tensor], str | None]:
    _check_header(file, head)
    try:
        with safe_open(file, framework="pt") as stream:
            names = list(stream.keys())
            _check_count(file, len(names))
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in names}
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise _damaged(file, error) from error
    text, stated = header.get(METADATA_KEY), header.get(DIGEST_KEY)
    expected = {"format": "pt", METADATA_KEY: text, DIGEST_KEY: stated}
    if not (header == expected or (stated is None and header.keys() <= {"format", METADATA_KEY}) or _foreign(header)):
        raise _damaged(file, f"its header has {sorted(header)} where {sorted(expected)} belong")
    if verify and text is not None and stated is not None and digest(tensors, text) != stated:
        raise _damaged(file, "its weights or its metadata differ from the digest that was written with them")
    return tensors, text


def _foreign(header: dict[str, str]) -> bool:
    """True if no key of the header is ours, or nearly: then its other keys are another program's."""
    return not any(get_close_matches(key, [METADATA_KEY, DIGEST_KEY], n=1, cutoff=0.8) for key in header)


def _read_pickle(file: Path, size: int, zipped: bool) -> dict[str, Any]:
    try:
        if zipped:
            _check_directory(file, size)
        # released training checkpoints keep their command line in a Namespace: an inert container of plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except ConvNextError:
        raise
    except pickle.UnpicklingError as error:
        if culprit := re.search(r"GLOBAL (\S+)", str(error)):
            raise ConvNextError(
                f"{file} holds more than tensors and plain values ({culprit[1]}). Opening it could run code of "
                "whoever made it, so it was not opened. Ask for a file that holds only the weights, as "
                "`torch.save(model.state_dict(), path)` makes it, or a safetensors file."
            ) from None
        raise _damaged(file, error) from error
    except Exception as error:  # the restricted unpickler meets a damaged or hostile file with errors of any kind
        raise _damaged(file, error) from error
    if not isinstance(content, dict):
        raise ConvNextError(f"{file} holds a {type(content).__name__}, and a checkpoint is a dict of tensors by name.")
    return content


def _check_directory(file: Path, size: int) -> None:
    """Refuse a zip file whose content is larger than the file, by its directory alone: a few bytes can expand to any
    number. `torch.save` never compresses."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    _check_count(file, len(entries))
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise _damaged(file, f"{packed.filename!r} in it is compressed to expand to {packed.file_size:,} bytes")
    if (total := sum(entry.file_size for entry in entries)) > size:
        raise _damaged(file, f"its directory claims {total:,} bytes, and the file has {size:,}")
    if any(entry.file_size > LONGEST_PICKLE for entry in entries if entry.filename.endswith(".pkl")):
        raise _damaged(file, f"its description of the tensors has more than {LONGEST_PICKLE:,} bytes")


def check_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse tensors that no model has: sparse, without data, or larger than the memory that they show.

    Raises:
        ConvNextError: naming the first of them.
    """
    _check_count(file, len(tensors))
    for name, t in tensors.items():
        plain = type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided and t.device.type == "cpu"
        if not plain or t.is_quantized or t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise _damaged(file, f"{name} is no ordinary tensor of {tuple(t.shape)}")


def _check_count(file: Path, number: int) -> None:
    if number > MOST_TENSORS:
        raise ConvNextError(f"{file} holds {number:,} tensors, and no model here has more than {MOST_TENSORS:,}.")


def _damaged(file: Path, error: Exception | str) -> ConvNextError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConvNextError(f"{file} cannot be read: it is damaged or incomplete ({reason}). Copy or download it again.")


def _guess(head: bytes) -> str:
    """A sentence about what a file that is no checkpoint is instead."""
    if not head:
        return "it is empty."
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer to a file that was not fetched; run `git lfs pull` in its repository."
    if head.lstrip().startswith(b"<"):
        return "it is a web page, probably an error page saved in place of a download; download it again."
    return f"it begins with {head[:12]!r}."


def write_safetensors(file: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file whose bytes depend on its content only: tensors and header in the order of their names.

    The library's own writer orders the header anew in every process.
    """
    layout: dict[str, Any] = {"__metadata__": dict(sorted(header.items()))}
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each starts aligned
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise SafetensorError(f"{name} is of type {tensor.dtype}, which safetensors does not hold")
        start, end = end, end + tensor.numel() * tensor.element_size()
        layout[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(layout, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            stream.write(raw(tensors[name]))
