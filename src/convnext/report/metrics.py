"""Reading what a run left behind: `config.json` and `metrics.jsonl`."""

import json
from collections import defaultdict
from pathlib import Path

from convnext.errors import ConvNextError
from convnext.files import read_record
from convnext.runtime.names import CONFIG, METRICS


def read_metrics(run: str | Path) -> dict[str, list[dict]]:
    """The records of `metrics.jsonl` by kind ("train", "eval"), in order of steps."""
    path = Path(run) / METRICS
    if not path.is_file():
        raise ConvNextError(f"{path} does not exist. Give the folder of a run, such as `convnext train` writes.")
    kinds = defaultdict(dict)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = read_record(line)
            kind, step = record["kind"], record["step"]
        except (ValueError, KeyError, AttributeError):
            continue  # torn by a kill in the middle of a write
        # a run that was killed and continued writes the steps since its checkpoint again: the last one counts
        kinds[kind][step] = record
    if not kinds:
        raise ConvNextError(f"{path} holds no metrics yet. Wait for the run's first lines, or give another run.")
    return {kind: [by_step[step] for step in sorted(by_step)] for kind, by_step in kinds.items()}


def read_config(run: str | Path) -> dict:
    """The resolved config of a run."""
    path = Path(run) / CONFIG
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConvNextError(
            f"{path} does not exist. Give the folder of a run, such as `convnext train` writes."
        ) from None
    except ValueError as error:
        raise ConvNextError(f"{path} is not JSON ({error}). Restore it, or leave this run out.") from None
