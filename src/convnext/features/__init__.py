"""Uses of a classifier's features: vectors of images, neighbours, and protocols that measure them."""
