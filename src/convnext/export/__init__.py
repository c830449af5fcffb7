"""Models as files that run without this package, each compared with the model it came from before it is handed over."""
