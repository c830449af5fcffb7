"""A model as what `export` takes."""

from convnext.classification.load import Classifier
from convnext.classification.transforms import Preprocess


def classifier_of(model, size: int = 64) -> Classifier:
    """A model with numbers for classes, on pictures of `size` pixels."""
    classes = [str(i) for i in range(model.num_classes)]
    return Classifier(model.eval(), classes, classes, Preprocess.for_size(size), "a test")
