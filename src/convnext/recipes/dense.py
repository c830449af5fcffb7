"""Image sizes of the COCO runs (Section A.3), which recipes, transforms and released checkpoints share."""

SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
"""Short sides in training, in pixels."""
SHORT = SHORT_SIDES[-1]
"""Short side in evaluation, in pixels."""
LONG = 1333
"""Largest long side in training and evaluation, in pixels."""
