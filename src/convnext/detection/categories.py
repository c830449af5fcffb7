"""Names and ids of a detector's classes: COCO's own, or those of a dataset."""

from collections.abc import Sequence

from convnext.errors import ConvNextError

COCO = 80


def class_names(stated: Sequence[str] | None, num_classes: int, source: str) -> list[str]:
    """The classes that a file states; COCO's where it states none and the model has 80, else numbers from 1.

    Raises:
        ConvNextError: the file names more or fewer classes than the model has.
    """
    if stated and len(stated) != num_classes:
        raise ConvNextError(
            f"{source} names {len(stated)} classes, and its model has {num_classes}. The file is damaged or was put together "
            "from two: get it again from where it was trained."
        )
    coco = num_classes == COCO
    return list(stated or (coco_categories().values() if coco else map(str, range(1, num_classes + 1))))


def category_ids(classes: Sequence[str]) -> list[int]:
    """Ids of the classes in COCO's result format: those of COCO's own files for its 80 classes, else 1, 2, .."""
    if len(classes) == COCO and list(classes) == list((by_id := coco_categories()).values()):
        return list(by_id)
    return list(range(1, len(classes) + 1))


def coco_categories() -> dict[int, str]:
    """COCO's 80 categories by their ids, which have gaps, as torchvision lists them with its own detector."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    listed = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(listed) if name not in ("__background__", "N/A")}
