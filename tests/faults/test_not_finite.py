"""Numbers that are not finite, wherever they get into a training or an evaluation."""

import json
import re
from dataclasses import replace
from functools import partial

import torch
from processes import command, survived
from safetensors.torch import load_file
from scenario import is_full, scenario, sizes
from test_kills import CLASSIFIER

AT = 9
"""Micro-batch, of two a step, at which the number comes."""
LOG_EVERY = 3
"""Of the run's options."""
SKIPPED = ("images", "targets", "loss", "gradients")


def arm(place: str, value: float) -> None:
    """Put the value into one place of the training that this process will run."""
    from convnext.classification.task import ClassificationTask
    from convnext.engine.ema import MovingAverage

    losses, update, calls = ClassificationTask.losses, MovingAverage.update, [0, 0]

    def broken_losses(task, model, batch):
        calls[0] += 1
        if calls[0] == AT and place == "weights":
            with torch.no_grad():
                next(task.model.parameters()).view(-1)[0] = value
        if calls[0] != AT or place not in SKIPPED:
            return losses(task, model, batch)
        mixup = task.mixup
        if place == "images":
            images = batch.images.clone()
            images[0, 0, 0, 0] = value
            batch = replace(batch, images=images)
        if place == "targets":
            task.mixup = lambda x, labels: (x, mixup(x, labels)[1] * value)
        if place == "gradients":

            def once(gradient):
                handle.remove()
                return gradient * value

            handle = next(task.model.parameters()).register_hook(once)
        found = losses(task, model, batch)
        task.mixup = mixup
        return {"loss": found["loss"] * value} if place == "loss" else found

    def broken_update(average, skipped):
        update(average, skipped)
        calls[1] += 1
        if calls[1] == 5 and place == "moving average":
            next(average.module.parameters()).view(-1)[0] = value

    ClassificationTask.losses, MovingAverage.update = broken_losses, broken_update


@sizes(0, 18)
def test_in_six_places_of_a_training(tmp_path, request, tried):
    what = (
        "NaN, infinity and minus infinity in an image, in targets, a loss, a gradient: the step is skipped and noted with its "
        "samples, all weights stay finite; in the weights: the run stops with a sentence; in the moving average: it is named, the "
        "best weights are the others"
    )
    cases = [
        (place, value)
        for value in (float("nan"), float("inf"), -float("inf"))
        for place in (*SKIPPED, "weights", "moving average")
    ]
    with scenario("NaN and Inf", what, is_full(request)) as now:
        for number, (place, value) in enumerate(cases[:tried]):
            with now.case(f"{value} in {place}"):
                out = tmp_path / str(number) / "run"
                out.parent.mkdir()
                argv = [*CLASSIFIER, "--epochs", "1", "--max-nonfinite", "3", "--out", out]
                child = command(argv, out.parent / "output", partial(arm, place, value))
                said = survived(child, 2 if place == "weights" else 0)
                noted = out / "nonfinite.jsonl"
                lines = [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
                if place == "weights":
                    told = re.search(r"not finite in (\d+) steps in a row", said)
                    assert told, said
                    assert 3 <= int(told[1]) < 3 + LOG_EVERY  # the device is asked once for all steps of a log line
                    assert len(lines) == int(told[1])
                    continue
                best = load_file(out / "best.safetensors")
                assert all(tensor.isfinite().all() for tensor in best.values() if tensor.is_floating_point())
                if place == "moving average":
                    assert "The ema weights, their loss or their top1 are not finite" in said
                    assert lines == []
                else:
                    assert [line["step"] for line in lines] == [4]
                    assert len(lines[0]["samples"]) == 90
                    last = load_file(out / "model_ema.safetensors")
                    assert all(tensor.isfinite().all() for tensor in last.values() if tensor.is_floating_point())
