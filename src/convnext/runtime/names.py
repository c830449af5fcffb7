"""Names of the files of a run, and of what its records hold: standard library only, so that reports need nothing more."""

CONFIG, ENVIRONMENT, METRICS, SUMMARY = "config.json", "environment.json", "metrics.jsonl", "summary.json"
LOCK, CHECKPOINTS, TENSORBOARD, CURVES = ".lock", "checkpoints", "tensorboard", "curves.png"
RUN_FILES = {"best": "best.safetensors", "raw": "model.safetensors", "ema": "model_ema.safetensors"}  # the weights
EVALUATION = "evaluation"  # a folder of the run
RESULTS, PREDICTIONS = "evaluation.json", "predictions.parquet"  # files in it
TRAINED_ON, EXAMPLES = "training.parquet", "examples.parquet"  # also: what `task.examples` draws
DETAILS = (
    "_small",
    "_medium",
    "_large",
    "ap50",
    "ap75",
)  # endings of metrics that are written, but neither shown nor large


def of_rank(stem: str, rank: int, processes: int) -> str:
    """The name of a list that each process of a run keeps: `nonfinite.jsonl`, or `nonfinite-rank1.jsonl` of several."""
    return f"{stem}-rank{rank}.jsonl" if processes > 1 else f"{stem}.jsonl"
