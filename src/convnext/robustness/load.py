"""Any classifier that can be named as a subject: ours by `load_classifier`, others by `load_peer`."""

from pathlib import Path

import torch
from torch import nn

from convnext import paper
from convnext.classification.load import load_classifier
from convnext.classification.transforms import Normalize
from convnext.robustness.peers import is_peer, load_peer
from convnext.robustness.sets import wnids
from convnext.robustness.subject import Subject
from convnext.runtime.run_folder import is_run, read_config
from convnext.weights import catalog


def load_subject(name: str, device: torch.device) -> Subject:
    """Read a model and put it on `device` in evaluation mode.

    Args:
        name: what `load_classifier` or `load_peer` takes.

    Raises:
        ConvNextError: there is nothing of that name, or it is no classifier.
    """
    if is_peer(name):
        subject = load_peer(name)
        subject.model.to(device).eval()
        return subject
    classifier = load_classifier(name, device)
    preprocess = classifier.preprocess
    recipe = read_config(Path(name))[1] if is_run(Path(name)) else None
    return Subject(
        name.rstrip("/"),
        classifier.model,
        _labels(classifier.classes),
        preprocess.resize_crop,
        Normalize(preprocess.mean, preprocess.std),
        preprocess.to_dict(),
        _paper_row(classifier.model, preprocess.size, classifier.source),
        (recipe.val_share, recipe.seed) if recipe else (0.1, 0),
    )


def _labels(classes: list[str]) -> list[str]:
    """A thousand classes without names are taken for ImageNet's."""
    numbered = classes == [str(label) for label in range(len(classes))]
    return list(wnids("clean")) if numbered and len(classes) == 1000 else classes


def _paper_row(model: nn.Module, size: int, source: str) -> paper.Robustness | None:
    """The row of Table 8 of this architecture and input size, unless the file was released with other training data."""
    name = paper.NAMES.get(getattr(model, "config", {}).get("name", ""))
    row = next((row for row in paper.TABLE8 if (row.model, row.size) == (name, size)), None)
    released = next((entry.name for entry in catalog.ENTRIES if Path(entry.file).name == Path(source).name), None)
    if row and released and ("in22k" in released) != (row.pretrain == "22k"):
        return None
    return row
