"""Conventions that all tasks share: ImageNet's colour statistics, names of split folders, the padding of batches."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel, of values in 0..1: what every released checkpoint was trained with."""

TRAIN_NAMES = ("train", "training", "train2017")
VAL_NAMES = ("val", "validation", "valid", "val2017", "test")
"""Names of the folders of a split, the first that is there."""

PAD_MULTIPLE = 32
"""Pixels: the sides of padded batches are multiples of it, the stride of the deepest feature map."""
