"""Image classification: the place that knows model, data and engine together."""
