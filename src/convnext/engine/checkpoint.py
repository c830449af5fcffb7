"""Checkpoints that survive a kill at any instant: written aside, synced, renamed, and verified by digest when read.

A checkpoint is a folder `step-00000120` with `state.safetensors` (all tensors) and `manifest.json` (everything else). The
manifest begins with the digest of its own other bytes, among which is the SHA-256 of the tensor file, so a change of any
byte of either file is noticed. Nothing in a checkpoint is pickled.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from convnext.errors import ConvNextError
from convnext.files import sha256, sync

TENSORS, MANIFEST = "state.safetensors", "manifest.json"
ASIDE = ".writing-"  # followed by the process's number
_HEAD = re.compile(rb'\{"digest": "([0-9a-f]{64})"')
_BEFORE_DIGESTS = {"state", "data", "step", "sha256"}  # the manifests of version 0.1.0, whose tensors alone are covered


def save(root: Path, step: int, tensors: dict[str, torch.Tensor], manifest: dict, keep: int) -> Path:
    """Write the checkpoint of `step` under `root`; remove all but the newest `keep`, and damaged ones of later steps.

    Raises:
        ConvNextError: it could not be written (full disk); the earlier checkpoints are untouched.
    """
    root.mkdir(parents=True, exist_ok=True)
    # the same step may be saved again: the earlier one stays until its successor is whole
    last = max((attempt for folder in _folders(root) for at, attempt in [_order(folder)] if at == step), default=0)
    final, aside = root / f"step-{step:08d}{f'-{last + 1}' if last else ''}", root / f"{ASIDE}{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, aside / TENSORS)
        (aside / MANIFEST).write_bytes(_encode({**manifest, "step": step, "sha256": sha256(aside / TENSORS)}))
        for file in (aside / TENSORS, aside / MANIFEST, aside):
            sync(file)
        os.rename(aside, final)
        sync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise ConvNextError(
            f"The checkpoint of step {step} could not be written to {root}: {error}. Earlier checkpoints there are intact: "
            "free some space and give the same command again to continue from the newest."
        ) from error
    folders = _folders(root)
    newest = folders.index(final)
    for old in folders[:newest] + folders[newest + keep :]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_newest(root: Path) -> tuple[dict[str, torch.Tensor], dict, list[str]] | None:
    """The newest checkpoint whose digests verify: tensors on the CPU, manifest, and a complaint for each damaged newer one.

    Returns None when there is none.

    Raises:
        ConvNextError: there are checkpoints, and all of them are damaged.
    """
    complaints = []
    for folder in _folders(root):
        try:
            manifest = _decode((folder / MANIFEST).read_bytes())
            if sha256(folder / TENSORS) != manifest["sha256"]:
                raise ValueError("the digest of its tensors differs")
            return load_file(folder / TENSORS), manifest, complaints
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            complaints.append(f"{folder} is damaged ({error}) and was passed over.")
    if complaints:
        raise ConvNextError(
            f"Every checkpoint under {root} is damaged: {' '.join(complaints)} Remove the run's folder to start anew, or "
            "restore it from a copy."
        )
    return None


def _encode(manifest: dict) -> bytes:
    rest = json.dumps(manifest, indent=1).removeprefix("{").encode()
    return b'{"digest": "' + hashlib.sha256(rest).hexdigest().encode() + b'",' + rest


def _decode(data: bytes) -> dict:
    """The inverse of `_encode`; ValueError if a byte has changed."""
    head = _HEAD.match(data)
    if head and data[head.end() : head.end() + 1] == b",":
        if hashlib.sha256(data[head.end() + 1 :]).hexdigest() != head[1].decode():
            raise ValueError("the digest of its manifest differs")
        return json.loads(data)
    manifest = json.loads(data)
    if not isinstance(manifest, dict) or set(manifest) != _BEFORE_DIGESTS:
        raise ValueError("its manifest is not valid")
    return manifest


def _order(folder: Path) -> tuple[int, int]:
    """(step, attempt): `step-00000120` is the first attempt at step 120, `step-00000120-2` the second."""
    _, step, *attempt = folder.name.split("-")
    return int(step), int(attempt[0]) if attempt else 1


def _folders(root: Path) -> list[Path]:
    """The checkpoints under `root`, newest first."""
    found = [folder for folder in root.glob("step-*") if re.fullmatch(r"step-\d+(-\d+)?", folder.name)]
    return sorted(found, key=_order, reverse=True)
