"""Images that tell something of a classifier: as training sees them, and where it errs or hardly does not, with what speaks for it.

Legend: N images, K classes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from convnext.classification.answers import Kept
from convnext.classification.augment import Augmented, Finish, TrainTransform
from convnext.classification.dataset import ImageDataset
from convnext.classification.evaluate import Sliced
from convnext.classification.explain import stage_maps
from convnext.classification.label_metrics import LabelScores
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.data.images import ImageError
from convnext.recipes.schema import Classification
from convnext.report.explanation import overlay
from convnext.task.examples import Example, TrainingViews, small
from convnext.task.spec import Loaded

SHOWN = 12
"""Images of each kind."""
LEAST = 4
"""Positions a side of the coarsest map that is drawn: those of the last stage, where the image has as many."""
MISTAKES, MISSED, HITS = "The surest mistakes", "The surest omissions", "The least sure hits"


def training_views(recipe: Classification, train: ImageDataset) -> TrainingViews:
    """The views of a training, as they are before Mixup and CutMix."""
    pre, augment = Preprocess.for_size(recipe.image_size), recipe.augment
    finish = Finish(pre)

    def draw(view: Augmented, target: Any, i: int) -> tuple[Image.Image, str]:
        values = finish(view.pixels.permute(2, 0, 1)[None], view.erase[None])[0].permute(1, 2, 0).numpy()
        pixels = (values * pre.std + pre.mean).clip(0, 1) * 255
        return small(Image.fromarray(pixels.round().astype(np.uint8))), ", ".join(train.label_names(i)) or "no label"

    mixing = [name for name, alpha in (("Mixup", augment.mixup), ("CutMix", augment.cutmix)) if alpha]
    before = f", before {' and '.join(mixing)}" if mixing and augment.mixup_prob else ""
    return TrainingViews(TrainTransform(pre, augment), draw, f"{TrainingViews.title}{before}")


def telling_answers(kept: Kept, samples: ImageDataset, loaded: Loaded) -> Iterator[Example]:
    """The surest mistakes and the least sure hits, each beside a map of what speaks for the class that was said."""
    hit = kept.said == samples.labels
    order = np.argsort(-kept.confidence, kind="stable")
    for section, places in ((MISTAKES, order[~hit[order]]), (HITS, order[hit[order]][::-1])):
        for i in places[:SHOWN].tolist():
            said = f"{loaded.names[kept.said[i]]} {100 * kept.confidence[i]:.0f} %"
            truth = "" if hit[i] else f", is {loaded.names[samples.labels[i]]}"
            yield from _example(section, f"{said}{truth} · {samples.name(i)}", samples, i, loaded, int(kept.said[i]))


def telling_labels(scores: LabelScores, samples: ImageDataset, loaded: Loaded) -> Iterator[Example]:
    """The surest labels that do not apply, the surest omissions and the least sure hits, an image at most once in each."""
    p, said, truth = scores.probabilities(), scores.said(), scores.truth
    for section, chosen, worst in (
        (MISTAKES, said & ~truth, -p),
        (MISSED, ~said & truth, p),
        (HITS, said & truth, p),
    ):
        for i, k in _first_of_each(chosen, worst):
            there = ", ".join(loaded.names[j] for j in np.flatnonzero(truth[i])) or "nothing"
            words = f"{loaded.names[k]} {100 * p[i, k]:.0f} %, is {there} · {samples.name(i)}"
            yield from _example(section, words, samples, i, loaded, k)


def _first_of_each(chosen: np.ndarray, order: np.ndarray) -> list[tuple[int, int]]:
    """(image, class) of at most `SHOWN` images, by `order` (N, K): of each image its first pair among the `chosen` (N, K)."""
    values = np.where(chosen, order, np.inf)
    least = values.min(axis=1, initial=np.inf)
    images = np.argsort(least, kind="stable")[: min(SHOWN, int(np.isfinite(least).sum()))]
    return [(int(i), int(values[i].argmin())) for i in images]


def _example(section: str, words: str, samples: ImageDataset, i: int, loaded: Loaded, k: int) -> Iterator[Example]:
    """Image i, and beside it, where the model gives gradients, what in it speaks for class k."""
    try:
        image = samples.image(i)
    except ImageError:  # gone since it was evaluated
        return
    explain = explainer(loaded)
    pictures = (small(image),) if explain is None else (small(image), explain(image, k))
    yield Example(section, words, pictures)


def explainer(loaded: Loaded) -> Callable[[Image.Image, int], Image.Image] | None:
    """A function (image, class) that draws a map over the part that the model saw; None for an exported file.

    Of the stages' maps it takes the last one with at least `LEAST` positions a side, or the finest.
    """
    module: Any = loaded.module
    indices = None
    if isinstance(module, Sliced):
        module, indices = module.model, module.indices
    if getattr(module, "stage_parts", None) is None:
        return None
    transform, device = eval_transform(loaded.preprocess), next(module.parameters()).device

    def explain(image: Image.Image, k: int) -> Image.Image:
        about = torch.tensor([k if indices is None else indices[k]], device=device)
        _, maps, _ = stage_maps(module, transform(image)[None].to(device), about)
        fine = [each for each in maps if min(each.shape[1:]) >= LEAST] or maps[:1]
        return overlay(small(loaded.preprocess.resize_crop(image)), np.nan_to_num(fine[-1][0].cpu().numpy()))

    return explain
