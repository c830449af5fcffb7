"""A model as `export` takes it."""

from convnext.classification.spec import SPEC
from convnext.classification.transforms import Preprocess
from convnext.export.formats import FORMATS, smallest_side
from convnext.export.images import drawn
from convnext.export.run import describe, export
from convnext.task.spec import Loaded


def classifier_of(model, size: int = 64) -> Loaded:
    """A model with numbers for classes, on images of `size` pixels."""
    classes = [str(i) for i in range(model.num_classes)]
    return Loaded(model.eval(), classes, classes, Preprocess.for_size(size), "a test")


def exported(loaded, file, format, precision="fp32", spec=SPEC, **options):
    """The report of an export; options: images, free_size, batch, size, calibration, tolerance."""
    side = spec.side(loaded)
    free = options.get("free_size", False)
    metadata = describe(
        spec,
        loaded,
        format,
        precision,
        batch=options.get("batch"),
        size=options.get("size", None if free else (side, side)),
        smallest=smallest_side(FORMATS[format], spec, loaded) if free else side,
    )
    images = options.get("images") or drawn(side, 12)
    tolerance = options.get("tolerance") or spec.tolerance(precision)
    return export(spec, loaded, metadata, file, images, tolerance, options.get("calibration"))
