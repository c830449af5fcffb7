"""`convnext.create_model` and `convnext.list_models`: every model by name, random or with weights from anywhere."""

from collections.abc import Callable
from fnmatch import fnmatch

from torch import nn

from convnext import models
from convnext.detection import names as detectors
from convnext.errors import ConvNextError, nearest
from convnext.segmentation import segmenter


def builder(task: str) -> Callable[..., nn.Module]:
    """What builds the models of a task from name and options."""
    if task == "detection":
        from convnext.detection import detector  # torchvision takes seconds

        return detector.build
    return {"classification": models.build, "segmentation": segmenter.build}[task]


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, filtered by a glob such as "convnext_*"."""
    return [name for names in _names().values() for name in names if fnmatch(name, pattern)]


def task_of_name(name: str) -> str:
    """classification, detection or segmentation.

    Raises:
        ConvNextError: there is no such model.
    """
    for task, names in _names().items():
        if name in names:
            return task
    raise ConvNextError(f"There is no model {name!r}.{nearest(name, list_models())} `convnext info models` lists them.")


def create_model(name: str, weights: str | None = None, new_head: bool = False, **options) -> nn.Module:
    """A model by name, in training mode.

    Args:
        name: one of `list_models()`.
        weights: a checkpoint file of any known format, a folder saved by `save_pretrained`, or a name of the catalog;
            None for random initialisation. Options that are not given are the checkpoint's: its number of classes, its
            LayerScale or lack of it, its stem.
        new_head: keep the fresh classifier when the checkpoint's has another number of classes.
        options: of the model: num_classes (1000, 80 for a detector, 150 for a segmenter; None makes a ConvNeXt without
            head, a backbone), in_chans, drop_path_rate, layer_scale_init_value; for classifiers head_init_scale,
            stem_stride; for detectors and segmenters checkpoint_backbone.

    Raises:
        ConvNextError: an unknown name or option, or a checkpoint that is unreadable or of another model.
    """
    build = builder(task_of_name(name))
    if weights is None:
        return build(name, **options)
    from convnext.weights.load import load_model

    return load_model(weights, new_head=new_head, build=build, name=name, **options)[0]


def _names() -> dict[str, list[str]]:
    return {
        "classification": models.names(),
        "detection": list(detectors.SIZES),
        "segmentation": list(segmenter.SIZES),
    }
