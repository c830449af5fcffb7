"""Checkpoints that survive a kill at any instant: written aside, synced, renamed, and verified by hash when read.

A checkpoint is a folder `step-00000120` with `state.safetensors` (all tensors) and `manifest.json` (everything else, and
the SHA-256 of the tensor file). Nothing in it is pickled.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from convnext.errors import ConvNextError
from convnext.files import sha256, sync

TENSORS, MANIFEST = "state.safetensors", "manifest.json"


def save(root: Path, step: int, tensors: dict[str, torch.Tensor], manifest: dict, keep: int) -> Path:
    """Write the checkpoint of `step` under `root` and remove all but the newest `keep`.

    Raises:
        ConvNextError: it could not be written (full disk); the earlier checkpoints are untouched.
    """
    root.mkdir(parents=True, exist_ok=True)
    same = len(list(root.glob(f"step-{step:08d}*")))  # never remove a checkpoint to make room for its successor
    final, aside = root / f"step-{step:08d}{f'-{same + 1}' if same else ''}", root / f".writing-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, aside / TENSORS)
        manifest = {**manifest, "step": step, "sha256": sha256(aside / TENSORS)}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
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
    for old in _folders(root)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_newest(root: Path) -> tuple[dict[str, torch.Tensor], dict, list[str]] | None:
    """The newest checkpoint whose hash verifies: tensors on the CPU, manifest, and a complaint for each broken newer one.

    Returns None when there is none.

    Raises:
        ConvNextError: there are checkpoints, and all of them are broken.
    """
    complaints = []
    for folder in _folders(root):
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if sha256(folder / TENSORS) == manifest["sha256"]:
                return load_file(folder / TENSORS), manifest, complaints
            complaints.append(f"{folder} is damaged (its hash differs) and was passed over.")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            complaints.append(f"{folder} is damaged ({error}) and was passed over.")
    if complaints:
        raise ConvNextError(
            f"Every checkpoint under {root} is damaged: {' '.join(complaints)} Remove the run's folder to start anew, or "
            "restore it from a copy."
        )
    return None


def _folders(root: Path) -> list[Path]:
    """Newest first."""
    return sorted(root.glob("step-*"), reverse=True)
