"""Open any classifier as a subject: ours by `tasks.open_trained`, others by `load_peer`."""

from pathlib import Path

import torch
from torch import nn

from convnext import paper, tasks
from convnext.classification.transforms import Normalize, Preprocess
from convnext.errors import ConvNextError
from convnext.robustness.peers import is_peer, load_peer
from convnext.robustness.sets import wnids
from convnext.robustness.subject import Subject
from convnext.weights import catalog


def load_subject(name: str, device: torch.device) -> Subject:
    """Read a model and put it on `device` in evaluation mode.

    Args:
        name: a name as for `tasks.open_trained` or `load_peer`.

    Raises:
        ConvNextError: there is nothing of that name, or it is no classifier.
    """
    if is_peer(name):
        subject = load_peer(name)
        subject.model.to(device).eval()
        return subject
    opened = tasks.open_trained(name, device=device)
    classifier = opened.loaded
    preprocess = classifier.preprocess
    if not isinstance(preprocess, Preprocess):
        raise ConvNextError(f"{name} is a {opened.spec.noun}; robustness is measured of classifiers.")
    if classifier.metadata.get("thresholds") is not None:
        raise ConvNextError(
            f"{name} gives an image several labels; robustness is measured of classifiers of one label."
        )
    return Subject(
        name.rstrip("/"),
        classifier.module,
        _labels(classifier.classes),
        preprocess.resize_crop,
        Normalize(preprocess.mean, preprocess.std),
        preprocess.to_dict(),
        _paper_row(classifier.module, preprocess.size, classifier.source),
        opened,
    )


def _labels(classes: list[str]) -> list[str]:
    """A thousand classes without names are taken for ImageNet's."""
    numbered = classes == [str(label) for label in range(len(classes))]
    return list(wnids("clean")) if numbered and len(classes) == 1000 else classes


def _paper_row(model: nn.Module, size: int, source: str) -> paper.Robustness | None:
    """The row of Table 8 of this architecture and input size, unless the file was released with other training data."""
    row = paper.lookup(paper.TABLE8, model=getattr(model, "config", {}).get("name", ""), size=size)
    released = next((entry.name for entry in catalog.ENTRIES if Path(entry.file).name == Path(source).name), None)
    if row and released and ("in22k" in released) != (row.pretrain == "22k"):
        return None
    return row
