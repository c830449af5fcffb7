"""What the features of a classifier are good for: vectors of images, neighbours, and protocols that measure them."""
