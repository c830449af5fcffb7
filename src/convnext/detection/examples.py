"""Images with objects drawn for people: as training sees them, and what was found beside the ground truth."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from convnext.data.formats.coco_file import mask_of, run_lengths
from convnext.data.images import ImageError
from convnext.detection.coco import CocoImages
from convnext.detection.evaluate import Result
from convnext.detection.transforms import TrainTransform
from convnext.recipes.schema import Detection
from convnext.report.detection import draw_detections
from convnext.task.examples import SHOWN, WIDE, Example, TrainingViews, small, spread

THRESHOLD = 0.3
"""Least score of what is drawn, as `predict` has it."""
FOUND = "Ground truth, and what was found"


def training_views(recipe: Detection, train: CocoImages) -> TrainingViews:
    """Flipped, scaled and cropped images with the objects that are left in them."""
    transform = TrainTransform.of(recipe.augment)

    def draw(view: Tensor, target: dict[str, Tensor], i: int) -> tuple[Image.Image, str]:
        values = view.permute(1, 2, 0).numpy() * transform.std + transform.mean
        image = small(Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)), WIDE)
        scale = image.width / view.shape[2], image.height / view.shape[1]
        masks = _shrunk(target["masks"].numpy(), image) if "masks" in target else None
        labels = target["labels"].numpy()
        drawn = draw_detections(image, target["boxes"].numpy() * (scale * 2), labels, None, masks, train.classes)
        return drawn, f"{_counted(labels, train.classes)} · {train.name(i)}, {view.shape[2]} x {view.shape[1]} px"

    return TrainingViews(transform, draw)


def telling(result: Result, samples: CocoImages) -> Iterator[Example]:
    """Images at equal distances, each with its objects, and with what was found from `THRESHOLD` on."""
    found, position = defaultdict(list), {int(key): k for k, key in enumerate(samples.category_ids)}
    for each in result.detections:
        if each["score"] >= THRESHOLD:
            found[each["image_id"]].append(each)
    for i in spread(len(samples), SHOWN):
        try:
            image, truth = samples.image(i), samples.target(i, masks=samples.has_masks)
        except ImageError:  # gone since it was evaluated
            continue
        mine = found[int(samples.image_ids[i])]
        boxes = np.array([each["bbox"] for each in mine], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([position[each["category_id"]] for each in mine], dtype=int)
        scores = np.array([each["score"] for each in mine])
        codes = [each["segmentation"] for each in mine if "segmentation" in each]
        masks = [mask_of(run_lengths(code["counts"]), code["size"]) for code in codes]
        shown, classes = small(image, WIDE), samples.classes
        scale = np.array([shown.width / image.width, shown.height / image.height] * 2)
        pictures = (
            draw_detections(
                shown, truth["boxes"] * scale, truth["labels"], None, _shrunk(truth.get("masks", ()), shown), classes
            ),
            draw_detections(shown, boxes * scale, labels, scores, _shrunk(masks, shown), classes),
        )
        words = f"{_counted(truth['labels'], classes)}; found: {_counted(labels, classes)} · {samples.name(i)}"
        yield Example(FOUND, words, pictures)


def _shrunk(masks: Sequence[np.ndarray] | np.ndarray, image: Image.Image) -> np.ndarray | None:
    """Masks (n, h, w) at the size of an image, each from the nearest pixels; None without any."""
    if not len(masks):
        return None
    height, width = masks[0].shape
    rows, columns = np.arange(image.height) * height // image.height, np.arange(image.width) * width // image.width
    return np.stack([mask[rows][:, columns] for mask in masks])


def _counted(labels: np.ndarray, classes: Sequence[str]) -> str:
    """Objects by class, the most frequent first: "2 cat, 1 dog"."""
    counts = Counter(classes[k] for k in labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
