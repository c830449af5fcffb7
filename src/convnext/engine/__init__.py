"""The engine: trains ready objects and knows no model, dataset or task by name."""
