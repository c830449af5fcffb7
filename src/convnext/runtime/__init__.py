"""Device, precision, processes, run folder and interruption: what training, evaluating and exporting share."""
