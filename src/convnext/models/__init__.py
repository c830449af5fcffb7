"""Every classifier by name: `names()`, `options(name)`, `build(name, ...)`, `identify(tensors)`. The first call imports torch."""

from convnext.errors import ConvNextError, nearest


def _families():
    """(module, model class) of each family; a module's SIZES has its names, its `build` makes the model."""
    from convnext.models import ablations, convnext, isotropic, roadmap

    return (
        (convnext, convnext.ConvNeXt),
        (isotropic, isotropic.IsotropicConvNeXt),
        (roadmap, roadmap.RoadmapNet),
        (ablations, roadmap.RoadmapNet),
    )


def _family(name: str):
    for module, model_class in _families():
        if name in module.SIZES:
            return module, model_class
    raise ConvNextError(f"There is no model {name!r}.{nearest(name, names())} `convnext info models` lists them.")


def names() -> list[str]:
    """All model names: ConvNeXt, isotropic ConvNeXt, every step of the roadmap, and ablations of the text."""
    return [name for module, _ in _families() for name in module.SIZES]


def options(name: str) -> list[str]:
    """The keyword options that `build(name, ...)` takes."""
    from inspect import signature

    module, model_class = _family(name)
    parameters = [*signature(model_class).parameters.values(), *signature(module.build).parameters.values()]
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def identify(tensors) -> dict | None:
    """The `name` and options with which `build` makes the model of these tensors (name -> tensor), None if there is none.

    The steps of the roadmap are told by a file's metadata only: several differ in activations alone, which leave no
    trace in the tensors. Neither do drop-path and the stride of the stem.
    """
    from convnext.models.recognise import identify

    return identify(tensors)


def build(name: str, **given):
    """A randomly initialised model; `model.config` records its name and the options that were given."""
    module, _ = _family(name)
    valid = options(name)
    if "pretrained" in given:
        raise ConvNextError(
            'There is no option `pretrained`: use weights="a file or a name of the catalog" of `convnext.create_model`. '
            "`convnext info catalog` lists them."
        )
    for option in given:
        if option not in valid:
            hint = nearest(option, valid)
            raise ConvNextError(f"{name} has no option {option!r}.{hint} Its options are: {', '.join(valid)}.")
    model = module.build(name, **given)
    model.config = {"name": name, **given}
    return model
