"""ConvNeXt: the whole paper as software. Importing the package is cheap; torch is imported on first use of a model."""

__version__ = "0.1.0"

_API = {
    "create_model": "convnext.tasks",
    "list_models": "convnext.tasks",
    "train": "convnext.training",
    "Labelled": "convnext.data.formats.sequence",
    "load": "convnext.trained",
    "from_pretrained": "convnext.tasks",
    "load_weights": "convnext.weights.load",
    "save_weights": "convnext.weights.save",
    "timm_register": "convnext.interop.timm",
    "transformers_register": "convnext.interop.transformers",
    "to_transformers": "convnext.interop.transformers",
    "ConvNextError": "convnext.errors",
    "Stopped": "convnext.runtime.interruption",
}
__all__ = [*_API, "__version__"]


def __getattr__(name: str):
    if name not in _API:
        raise AttributeError(f"module 'convnext' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_API[name]), name)


def __dir__():
    return sorted(__all__)
