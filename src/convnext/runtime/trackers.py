"""Experiment trackers (wandb, trackio, mlflow) beside a run: a thread each, which can neither stop nor slow it."""

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from convnext.errors import ConvNextError

WAITING = 1000
"""Records that wait for a slow tracker; further ones are left out."""
PATIENCE = 10.0
"""Seconds that the end of a run waits for its trackers."""


class Tracker(Protocol):
    """A connection to a tracker, used by one thread."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class Background:
    """A tracker in a thread of its own. `say(text, style=...)` is told once if it fails or is too slow."""

    def __init__(self, name: str, connect: Callable[[], Tracker], say: Callable[..., None]):
        self.name, self._connect, self._say = name, connect, say
        self._records: queue.Queue[dict | None] = queue.Queue(WAITING)
        self._failed, self._lost = False, 0
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def add(self, record: dict) -> None:
        """Hand over a record of the metrics, without waiting."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def close(self, patience: float | None = None) -> None:
        """Wait up to `patience` seconds (`PATIENCE` if None) for what is still to be sent."""
        if self._failed:
            return
        try:
            self._records.put_nowait(None)
            self._thread.join(PATIENCE if patience is None else patience)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._say(
                f"{self.name} does not answer: it lacks the last records, which metrics.jsonl has.", style="yellow"
            )
        elif self._lost:
            self._say(f"{self.name} was too slow for {self._lost:,} records, which metrics.jsonl has.", style="yellow")

    def _work(self) -> None:
        try:
            tracker = self._connect()
            while (record := self._records.get()) is not None:
                tracker.log(numbers(record), record["step"])
            tracker.finish()
        except BaseException as error:  # a tracker may raise anything, even SystemExit
            self._failed = True
            self._say(f"The run goes on without {self.name} ({type(error).__name__}: {error}).", style="yellow")


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite metrics of a record, named "train/loss", "eval/ema/top1", .."""
    kind = record["kind"]
    values = {name: value for name, value in record.items() if name not in ("kind", "step", "note")}
    return {f"{kind}/{name}": float(value) for name, value in values.items() if math.isfinite(value)}


def wandb(name: str, folder: Path, config: dict[str, Any]) -> Tracker:
    return import_module("wandb").init(project="convnext", name=name, dir=str(folder), config=config)


class Trackio:
    def __init__(self, name: str, folder: Path, config: dict[str, Any]):
        self._library = import_module("trackio")
        self._library.init(project="convnext", name=name, config=config)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._library.log(metrics, step=step)

    def finish(self) -> None:
        self._library.finish()


class Mlflow:
    def __init__(self, name: str, folder: Path, config: dict[str, Any]):
        self._library = mlflow = import_module("mlflow")
        mlflow.set_experiment("convnext")
        mlflow.start_run(run_name=name)
        mlflow.log_params({key: str(value)[:500] for key, value in config.items()})

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._library.log_metrics(metrics, step=step)

    def finish(self) -> None:
        self._library.end_run()


TRACKERS: dict[str, Callable[[str, Path, dict[str, Any]], Tracker]] = {
    "wandb": wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}


@contextmanager
def tracked(
    names: Sequence[str],
    folder: Path,
    config: dict[str, Any],
    say: Callable[..., None],
    on_record: Callable[[dict], None] | None = None,
) -> Iterator[Callable[[dict], None] | None]:
    """Yield a function that hands each record to `on_record` and to the named trackers; None without any.

    Raises:
        ConvNextError: the library of a tracker is not installed.
    """
    for name in names:
        if name != "tensorboard" and find_spec(name) is None:
            raise ConvNextError(f"--track {name} needs {name}: pip install 'convnext[track]', or pip install {name}.")
    running = [
        Background(name, lambda make=TRACKERS[name]: make(folder.name, folder, config), say)
        for name in names
        if name != "tensorboard"  # whose events every run writes
    ]

    def record(values: dict) -> None:
        if on_record:
            on_record(values)
        for each in running:
            each.add(values)

    try:
        yield record if running else on_record
    finally:
        for each in running:
            each.close()
