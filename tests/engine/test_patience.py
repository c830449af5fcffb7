"""The best weights by a named metric, and runs that stop when they no longer gain."""

import pytest
from toy import make_run

from convnext.engine import checkpoint
from convnext.engine.loop import Run, State
from convnext.recipes.schema import Optim
from convnext.runtime.names import CHECKPOINTS


def scores(values: list[float], metric: str = "top1"):
    """An `on_evaluate` that gives these scores one after the other, and then the last of them."""
    remaining = list(values)

    def replaced(results: dict, interrupted) -> dict:
        value = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return {label: found | {metric: value} for label, found in results.items()}

    return {"on_evaluate": replaced}


def test_it_stops_after_so_many_evaluations_without_a_gain(tmp_path):
    run = make_run(tmp_path, scores([1, 2, 3, 2, 2.5, 2]), epochs=10, patience=2)
    state = run.fit()
    # the rate is below half its peak from the sixth of ten epochs on: the evaluations before it do not count
    assert state.best["step"] == 3 * 4
    assert state.step == 7 * 4
    assert (tmp_path / "model.safetensors").exists()


def test_a_gain_starts_the_count_anew(tmp_path):
    state = make_run(tmp_path, scores([5, 5, 5, 5, 5, 6, 5, 5]), epochs=10, patience=2).fit()
    assert state.step == 8 * 4


def test_of_equal_scores_the_later_is_the_best_and_no_gain(tmp_path):
    state = make_run(tmp_path, scores([5, 7, 6, 7, 7, 6]), epochs=10, patience=3).fit()
    assert state.best["step"] == 5 * 4, "few held-out images give the same score often, and the model still learns"
    assert state.step == 8 * 4


def test_without_patience_it_goes_to_the_end(tmp_path):
    assert make_run(tmp_path, scores([5, 4]), epochs=6).fit().step == 24


def test_nothing_counts_in_the_warm_up(tmp_path):
    optim = Optim(lr=1e-2, warmup_epochs=8.0)
    assert make_run(tmp_path, scores([5, 4]), epochs=10, patience=2, optim=optim).fit().step == 40


def test_a_run_that_has_stopped_gaining_stays_stopped(tmp_path):
    make_run(tmp_path, scores([5, 4]), epochs=10, patience=2).fit()
    again = make_run(tmp_path, scores([5, 4]), epochs=10, patience=2)
    before = again.state.step
    assert again.fit().step == before == 28


def test_a_checkpoint_from_before_the_option_is_read(tmp_path):
    make_run(tmp_path, epochs=1).fit()
    _, manifest, _ = checkpoint.load_newest(tmp_path / CHECKPOINTS)
    del manifest["state"]["without_gain"]
    assert State(**manifest["state"]).without_gain == 0


@pytest.mark.parametrize(("metric", "best"), [("top1", 3), ("loss", 1)])
def test_the_loss_counts_downwards(tmp_path, metric, best):
    run: Run = make_run(tmp_path, scores([1, 2, 3], metric), epochs=3)
    run.task.metric = metric
    assert run.fit().best == {"score": float(best), "weights": "raw", "step": 4 * best}
