"""Bytes become samples: decoding, datasets, transforms, order."""
