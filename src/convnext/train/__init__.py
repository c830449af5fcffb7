"""The engine: it trains ready objects and knows no model, dataset or task by name."""
