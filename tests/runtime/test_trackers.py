"""Trackers beside a run: what they get, and that none of them can stop or slow it."""

import sys
import threading
import time
from types import ModuleType

import pytest

from convnext.errors import ConvNextError
from convnext.runtime import trackers
from convnext.runtime.trackers import Background, tracked

RECORD = {"kind": "eval", "step": 4, "epoch": 1.0, "ema/top1": 50.0, "loss": float("nan"), "note": "a sentence"}


class Fake:
    def __init__(self):
        self.logged, self.finished = [], False

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished = True


def test_it_gets_every_finite_number_and_is_finished(tmp_path, monkeypatch):
    fake, seen, lines = Fake(), [], []
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda *_: fake)
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    with tracked(
        ["tensorboard", "wandb"], tmp_path, {}, lambda text, style="": lines.append(text), seen.append
    ) as record:
        record(RECORD)
    assert fake.logged == [(4, {"eval/epoch": 1.0, "eval/ema/top1": 50.0})]
    assert fake.finished
    assert seen == [RECORD]
    assert lines == []


@pytest.mark.parametrize("error", [RuntimeError("no network"), SystemExit(3)])
def test_one_that_raises_is_told_once_and_left(error):
    def fails():
        raise error

    lines = []
    background = Background("wandb", fails, lambda text, style="": lines.append(text))
    background._thread.join(5)
    for _ in range(5):
        background.add(RECORD)
    background.close()
    assert len(lines) == 1
    assert "goes on without wandb" in lines[0]


def test_one_that_hangs_takes_no_time(monkeypatch):
    monkeypatch.setattr(trackers, "WAITING", 3)
    released, lines = threading.Event(), []
    background = Background("mlflow", released.wait, lambda text, style="": lines.append(text))
    began = time.perf_counter()
    for _ in range(1000):
        background.add(RECORD)
    background.close(patience=0.0)
    assert time.perf_counter() - began < 1
    released.set()
    assert "does not answer" in lines[0]


def test_a_library_that_is_missing_is_named_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConvNextError, match="pip install"), tracked(["trackio"], tmp_path, {}, print):
        pass


def test_without_trackers_nothing_is_in_between(tmp_path):
    with tracked([], tmp_path, {}, print, on_record := print) as record:
        assert record is on_record


@pytest.mark.parametrize("name", list(trackers.TRACKERS))
def test_the_libraries_are_called_by_their_names(name, tmp_path, monkeypatch):
    """With a module in the library's place: its own client would ask for an account or a server."""
    calls = []
    module = ModuleType(name)
    for function in ("init", "log", "finish", "set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
        setattr(module, function, lambda *args, _name=function, **kwargs: calls.append(_name) or module)
    monkeypatch.setitem(sys.modules, name, module)
    tracker = trackers.TRACKERS[name]("run", tmp_path, {"epochs": 3})
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.finish()
    assert calls[-1] in ("finish", "end_run")
    assert {"log", "log_metrics"} & set(calls)
