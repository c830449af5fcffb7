"""A trained model as an HTTP service on one machine: `convnext serve`."""
