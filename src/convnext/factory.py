"""`convnext.create_model` and `convnext.list_models`: every model by name, random or with weights from anywhere."""

from fnmatch import fnmatch

from torch import nn

from convnext.models import build, names


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, filtered by a glob such as "convnext_*"."""
    return [name for name in names() if fnmatch(name, pattern)]


def create_model(name: str, weights: str | None = None, new_head: bool = False, **options) -> nn.Module:
    """A model by name, in training mode.

    Args:
        name: one of `list_models()`.
        weights: a checkpoint file of any known format, a folder saved by `save_pretrained`, or a name of the catalog;
            None for random initialisation. Options that are not given are the checkpoint's: its number of classes, its
            LayerScale or lack of it, its stem.
        new_head: keep the fresh classifier when the checkpoint's has another number of classes.
        options: of the model: num_classes (1000; None makes a backbone), in_chans, drop_path_rate,
            layer_scale_init_value, head_init_scale, stem_stride.

    Raises:
        ConvNextError: an unknown name or option, or a checkpoint that is unreadable or of another model.
    """
    if weights is None:
        return build(name, **options)
    from convnext.weights.load import load_model

    return load_model(weights, new_head=new_head, name=name, **options)[0]
