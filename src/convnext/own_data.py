"""The images that an evaluation means: a model's own data means its held-out part, wherever it is named from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext import tasks
from convnext.errors import ConvNextError
from convnext.runtime.names import TRAINED_ON
from convnext.task.spec import TaskSpec

if TYPE_CHECKING:
    from convnext.task.results import Evaluation


@dataclass(frozen=True)
class Chosen:
    """Images to evaluate on.

    Attributes:
        samples: the dataset; `words`: where it is from.
        trained_on: how many of them the model was trained on; None where unknown.
        part: of the model's own data: "val", "train" or "all"; None of other data.
        training: the recipe of the run whose own data they are; None of other data and of other files.
    """

    samples: Any
    words: str
    trained_on: int | None
    part: str | None = None
    training: Any = None

    def complete(self, result: Evaluation, spec: TaskSpec) -> None:
        """Note in a result what it was measured on; with a run's go drawings of what it was trained on."""
        result.trained_on, result.part = self.trained_on, self.part
        if self.training is not None:
            from convnext.task.examples import training_examples, write_examples

            drawn = partial(training_examples, spec, self.training)
            result.files[TRAINED_ON] = partial(write_examples, drawn)


def choose_images(opened: tasks.Opened, data: Any, split: str | None, options: dict[str, Any]) -> Chosen:
    """The images that `evaluate` means; arguments and errors as there.

    The model's own data is recognised by its path, or by its content where it has moved or comes as a Python sequence.
    """
    from convnext.data.formats.sequence import hold

    kept = None if data is None else hold(data)  # until its images are open
    data = None if data is None else str(data) if kept is None else kept.key
    spec, own = opened.spec, opened.data_recipe
    if data is None and (own is None or not own.data):
        raise ConvNextError(
            "Give the labelled images to evaluate on: --data with a folder or files as for `train`, or a dataset's name."
        )
    overrides = {key: value for key, value in options.items() if value is not None and hasattr(spec.recipe, key)}
    asked = replace(own or spec.recipe(), **({"data": data} if data else {}), **overrides)
    if data and own and not same_path(own.data, data):
        asked = replace(asked, read=spec.recipe().read)  # how another dataset is read says nothing about this one
    if own and own.data and (data is None or is_own_data(opened, own, asked)):
        split = split or "val"
        samples = spec.open_split(asked, split)
        if not len(samples):
            raise ConvNextError(
                f"{opened.loaded.source} was trained on all of {asked.data}; nothing was held out. Give other labelled images "
                "with --data, or --split train for those that it was trained on."
            )
        where = {"val": "held out", "train": "trained on", "all": "held out and trained on"}[split]
        counts = {"val": 0, "train": len(samples)}
        trained_on = counts[split] if split in counts else len(spec.open_split(asked, "train"))
        words = f"{asked.data} ({where}{'' if split == 'val' else f': {trained_on:,}'})"
        return Chosen(samples, words, trained_on, split, asked if opened.recipe else None)
    asked = replace(asked, **dict.fromkeys(asked.places[1:], ""))  # of the training data, not of this
    if split is not None:
        samples = spec.open_split(asked, split)
    else:
        samples = spec.open_foreign(asked, opened.loaded)
    overlap = overlapping(spec, own, samples)
    known = "" if not overlap else f" ({overlap:,} of them trained on)"
    return Chosen(samples, f"{asked.data}{known}", overlap)


def is_own_data(opened: tasks.Opened, own: Any, asked: Any) -> bool:
    """True if the data that is asked for is what the model was trained on, by path or by content."""
    from convnext.data.formats.named import is_named

    if same_path(own.data, asked.data):
        return True
    told = opened.loaded.metadata.get("split")
    there = is_named(asked.data) or Path(asked.data).expanduser().exists()
    if not isinstance(told, dict) or not told.get("fingerprint") or not there:
        return False
    try:
        train, _ = opened.spec.open_data(asked)
    except ConvNextError:  # not laid out for training; whoever opens it for evaluation says what is wrong
        return False
    return opened.spec.fingerprint(train) == told["fingerprint"]


def same_path(one: str, other: str) -> bool:
    """True if two names of data are the same, as words or as folders."""
    a, b = Path(one).expanduser(), Path(other).expanduser()
    return one == other or (a.exists() and b.exists() and a.resolve() == b.resolve())


def overlapping(spec: TaskSpec, own: Any, samples: Any) -> int | None:
    """How many of the images are files that the model was trained on; None where that cannot be told."""
    if own is None or not own.data:
        return None
    try:
        train, _ = spec.open_data(own)
    except ConvNextError:  # gone, or moved
        return None
    seen = {file.resolve() for i in range(len(train)) if (file := spec.file(train, i))}
    return sum((file := spec.file(samples, i)) is not None and file.resolve() in seen for i in range(len(samples)))
