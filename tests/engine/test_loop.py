"""The engine on a task of milliseconds: interruptions, evaluations that fail, resuming. See `toy.py`."""

import json
import math
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import SAMPLES, WORLD, Toy, make_run, printed, toy_recipe

from convnext.engine.optim import optimizer_tensors
from convnext.errors import ConvNextError
from convnext.recipes.plan import make_plan
from convnext.runtime.interruption import Interrupted, Stopped


def tensors(run) -> dict:
    return {
        **run.task.model.state_dict(),
        **run.ema.module.state_dict(prefix="ema."),
        **optimizer_tensors(run.optimizer),
    }


def assert_equal(one, other) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def terminate(*_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def whole(tmp_path):
    """A run that nobody interrupted."""
    run = make_run(tmp_path / "whole")
    run.fit()
    return run


@pytest.mark.parametrize("keep", [1, 2])
def test_one_evaluation_interrupted_twelve_times_leaves_a_run_that_continues(tmp_path, whole, keep):
    def interrupt(results, interrupted):
        terminate()
        assert interrupted()
        raise Interrupted

    runtime = toy_recipe().runtime.__class__(workers=0, log_every=1, keep_checkpoints=keep)
    for _ in range(12):
        with pytest.raises(Stopped) as stopped:
            make_run(tmp_path / "run", {"on_evaluate": interrupt}, eval_every=2, runtime=runtime).fit()
        assert stopped.value.code == 143
        assert "evaluation after step 8" in str(stopped.value)
    last = make_run(tmp_path / "run", eval_every=2, runtime=runtime)
    assert last.state.step == 8
    last.fit()
    assert_equal(last, whole)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == keep
    assert [r["step"] for r in records(tmp_path / "run") if r["kind"] == "eval"] == [8]


@pytest.mark.parametrize("micro", [4, 5])
def test_a_wait_for_data_ends_within_a_second_and_the_run_continues_to_the_same_bits(tmp_path, whole, micro):
    """Micro-batch 5 is the second of its step: the statistics of BatchNorm have moved already, and are taken back."""

    def hang(at):
        if at == micro:
            terminate()
            time.sleep(60)

    began = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        make_run(tmp_path / "run", {"on_batch": hang}).fit()
    assert time.monotonic() - began < 5
    assert "step 2 of 8, waiting for data" in str(stopped.value)
    run = make_run(tmp_path / "run")
    assert run.state.step == 2
    run.fit()
    assert_equal(run, whole)


def test_an_evaluation_that_hangs_ends_within_a_second(tmp_path):
    def hang(results, interrupted):
        terminate()
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(Stopped, match="the evaluation after step 4"):
        make_run(tmp_path / "run", {"on_evaluate": hang}).fit()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("moment", ["on_batch", "on_evaluate"])
def test_what_hangs_by_itself_is_given_up_and_the_run_continues_to_the_same_bits(tmp_path, whole, moment):
    def hang(*which):
        if which != (0,):
            time.sleep(60)

    began, impatient = time.monotonic(), replace(WORLD, timeout=0.005)
    with pytest.raises(ConvNextError, match=r"Nothing came for 0.005 minutes \(--runtime.timeout\)"):
        make_run(tmp_path / "run", {moment: hang}, impatient).fit()
    assert time.monotonic() - began < 5
    run = make_run(tmp_path / "run", world=impatient)
    run.fit()
    assert_equal(run, whole)


class Hanging(torch.utils.data.Dataset):
    """Images 8 and later come from a disk that does not answer."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index >= 8:
            time.sleep(600)
        return torch.ones(4)


class Loaded(Toy):
    """Batches from a loader with a process of its own; its process number is in `pid`."""

    def batches(self, start):
        loader = iter(torch.utils.data.DataLoader(Hanging(), batch_size=4, num_workers=1, worker_init_fn=self.ignore))
        self.pid = loader._workers[0].pid
        for micro, batch in enumerate(loader):
            self.on_batch(micro)
            yield batch

    @staticmethod
    def ignore(_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the package's loader does


@pytest.fixture
def loaded(tmp_path):
    run = make_run(tmp_path / "run")
    run.task = Loaded(run.plan)
    return run


@pytest.mark.filterwarnings("ignore:This process")  # of forking beside threads
def test_a_loader_that_hangs_is_ended_with_the_run(loaded):
    def later(micro):
        if micro == 1:
            signal.signal(signal.SIGUSR1, terminate)
            os.system(f"(sleep 0.7; kill -USR1 {os.getpid()}) &")

    loaded.task.on_batch = later
    began = time.monotonic()
    with pytest.raises(Stopped, match="waiting for data"):
        loaded.fit()
    assert time.monotonic() - began < 8
    with pytest.raises(ProcessLookupError):
        os.kill(loaded.task.pid, 0)


@pytest.mark.filterwarnings("ignore:This process")
def test_a_loader_that_is_killed_is_named_as_the_cause(loaded):
    from convnext.errors import ConvNextError

    loaded.task.on_batch = lambda micro: micro == 1 and os.kill(loaded.task.pid, signal.SIGKILL)
    with pytest.raises(ConvNextError, match="data loading process was killed, probably for memory") as error:
        loaded.fit()
    assert "--runtime.workers" in str(error.value)


def nan_loss(results, interrupted):
    return {label: {"loss": math.nan, "top1": 9.75} for label in results}


def nan_score(results, interrupted):
    return {label: {"loss": 1.0, "top1": math.nan} for label in results}


@pytest.mark.parametrize("broken", [nan_loss, nan_score])
def test_a_model_that_is_not_finite_is_never_the_best(tmp_path, broken):
    run = make_run(tmp_path / "run", {"on_evaluate": broken})
    assert run.fit().best is None
    assert not (tmp_path / "run" / "best.safetensors").exists()
    evaluations = [record for record in records(tmp_path / "run") if record["kind"] == "eval"]
    assert all("raw and ema weights" in record["note"] and "not finite" in record["note"] for record in evaluations)
    assert "not taken as the best" in printed(run)


def test_weights_that_are_not_finite_are_never_the_best(tmp_path):
    def spoil(results, interrupted):
        run.ema.module[0].weight.data[0, 0] = math.nan
        return {"raw": {"loss": 1.0, "top1": 1.0}, "ema": {"loss": 1.0, "top1": 50.0}}

    run = make_run(tmp_path / "run", {"on_evaluate": spoil})
    assert run.fit().best == {"score": 1.0, "weights": "raw", "step": 8}
    assert "The ema weights" in printed(run)


def test_a_best_that_was_not_a_number_gives_way(tmp_path):
    run = make_run(tmp_path / "run")
    run.state.best = {"score": math.nan, "weights": "raw", "step": 0}
    assert math.isfinite(run.fit().best["score"])


def test_a_checkpoint_of_version_0_1_0_is_continued(tmp_path, whole):
    shutil.copytree(Path(__file__).parent / "golden", tmp_path / "run" / "checkpoints")
    run = make_run(tmp_path / "run")
    assert run.state.step == 6
    assert "Continuing the run" in printed(run)
    run.fit()
    for name, value in tensors(whole).items():
        torch.testing.assert_close(tensors(run)[name], value, msg=name)  # written by another machine


def test_other_processes_or_batches_are_said(tmp_path):
    make_run(tmp_path / "run").fit()
    run = make_run(tmp_path / "run", device_batch=8)
    assert "4 images per forward pass before, 8 now" in printed(run)
    assert "the results no longer to the last bit" in printed(run)
    assert "before" not in printed(make_run(tmp_path / "run"))


def test_records_after_the_checkpoint_go_and_the_file_is_replaced_whole(tmp_path, monkeypatch):
    make_run(tmp_path / "run").fit()
    path = tmp_path / "run" / "metrics.jsonl"
    kept = path.read_text()
    path.write_text(kept + json.dumps({"kind": "train", "step": 9, "epoch": 2.25, "loss": 1.0}) + "\n" + '{"kind": "tr')
    make_run(tmp_path / "run").recorder.close()
    assert path.read_text() == kept

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path / "run")
    assert path.read_text() == kept


def test_steps_that_are_not_finite_end_the_run_after_as_many_as_are_allowed(tmp_path):
    from convnext.errors import ConvNextError

    run = make_run(tmp_path / "run", max_nonfinite=3)
    run.take_step.losses = lambda model, batch: {"loss": model(batch).sum() * math.nan}
    with pytest.raises(ConvNextError, match="3 steps in a row, up to step 3") as error:
        run.fit()
    assert "nonfinite.jsonl" in str(error.value)
    assert len((tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()) == 3


def test_the_toy_is_what_the_golden_checkpoint_was_made_with():
    plan = make_plan(toy_recipe(), SAMPLES)
    assert (plan.total_steps, plan.accumulation, plan.eval_steps) == (8, 2, 4)
