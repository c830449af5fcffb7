"""The run: steps, evaluations, checkpoints, stopping and resuming, for any task.

All that a run is at an instant is in `State` and the tensors of model, optimizer, EMA and loss scale; randomness is a
function of (seed, step), so a killed run continues to the same bits as one that was not.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Recipe
from convnext.runtime.interruption import Interrupted, Stopped, StopRequest
from convnext.runtime.precision import resolve_precision
from convnext.runtime.run_folder import RUN_FILES
from convnext.runtime.world import World
from convnext.train import checkpoint, optim
from convnext.train.ema import Ema
from convnext.train.recorder import Recorder
from convnext.train.schedule import learning_rate
from convnext.train.step import Step


class Task(Protocol):
    """What the engine asks of a task: ready objects, no names."""

    model: nn.Module
    metric: str  # the evaluation metric that "best" is about; higher is better
    fingerprint: str  # of the training data: a resumed run must see the same

    def batches(self, start: int) -> Iterator:
        """Micro-batches on the device from optimizer step `start` to the end of the run."""
        ...

    def losses(self, model: nn.Module, batch) -> dict[str, Tensor]:
        """The mean training losses of a micro-batch by name, 0-d each; their sum is minimised. `model` is the task's model
        or a wrapper of it."""
        ...

    def sample_names(self, batch) -> list[str]:
        """Names of a micro-batch's samples, for the record of a non-finite step."""
        ...

    def evaluate(self, models: dict[str, nn.Module], interrupted: Callable[[], bool]) -> dict[str, dict[str, float]]:
        """Metrics of each model over the validation set, the same on every process. Raises `Interrupted` when
        `interrupted()`, which every process calls equally often."""
        ...

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        """Write a file that evaluation and prediction need nothing but; `facts` go into its metadata."""
        ...


@dataclass
class State:
    """Where a run is; saved in every checkpoint."""

    step: int = 0
    evaluated: int = 0  # the step of the last evaluation
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: dict | None = None  # {"score", "weights": "raw" | "ema", "step"}
    window: list = field(default_factory=list)  # {loss.., grad_norm, skipped} of the steps since the last record


class Run:
    """A training run in `folder`: `Run(...).fit()`."""

    def __init__(self, task: Task, recipe: Recipe, plan: Plan, folder: Path, world: World, console):
        self.task, self.recipe, self.plan, self.folder, self.world, self.console = (
            task, recipe, plan, folder, world, console,
        )  # fmt: skip
        self.optimizer = optim.make_optimizer(task.model, recipe.optim, recipe.decay_rule)
        self.ema = Ema(task.model, plan.ema_decay) if plan.ema_decay else None
        precision = resolve_precision(recipe.precision, world.device)
        self.take_step = Step(
            task.model, task.losses, self.optimizer, world, precision, recipe.optim.clip_grad, self.ema
        )  # fmt: skip
        self.state = State()
        self._restore()
        if recipe.compile:
            task.model.compile()  # in place: parameter names stay clean
        self.recorder = Recorder(folder, console, plan.total_steps, self.state.step) if world.is_main else None
        self._pending: list[tuple[Tensor, list[str]]] = []

    # -- the run

    def fit(self) -> State:
        """Train to the end, from wherever the folder's newest checkpoint is.

        Raises:
            Stopped: a signal came; the state is saved.
            ConvNextError: too many non-finite steps in a row, too many unreadable images, or a full disk.
        """
        plan, state = self.plan, self.state
        batches = self.task.batches(state.step) if state.step < plan.total_steps else iter(())
        self._clock = time.monotonic()
        self._saved_at, self._images, self._waited, self._started = self._clock, 0, 0.0, (self._clock, state.step)
        try:
            with StopRequest() as stop:
                while True:
                    if self._evaluation_due():
                        self._evaluate(stop)
                    if state.step == plan.total_steps:
                        break
                    self._one_step(batches)
                    self._after_step(stop)
        finally:
            if self.recorder:
                self.recorder.close()
        if self.world.is_main:
            self._save_weights("raw", RUN_FILES["raw"])
            if self.ema:
                self._save_weights("ema", RUN_FILES["ema"])
        return state

    def _one_step(self, batches: Iterator) -> None:
        state, plan = self.state, self.plan
        optim.set_lr(self.optimizer, self._lr(state.step))
        names: list[str] = []

        def micro_batches():
            for _ in range(plan.accumulation):
                asked = time.monotonic()
                batch = next(batches)
                self._waited += time.monotonic() - asked
                names.extend(self.task.sample_names(batch))
                yield batch

        result = self.take_step(micro_batches(), plan.accumulation, (self.recipe.seed, "step", state.step))
        self._pending.append((result, names))
        self._images += plan.total_batch
        state.step += 1

    def _after_step(self, stop: StopRequest) -> None:
        state, runtime = self.state, self.recipe.runtime
        if self.recorder:
            self.recorder.advance(state.step)
        end_of_epoch = state.step % self.plan.steps_per_epoch == 0
        if state.step % runtime.log_every == 0 or end_of_epoch:
            self._log()
        elif len(self._pending) >= self.recipe.max_nonfinite:
            self._drain()
        stopping = self.world.any(stop.signum is not None)
        if stopping or (not self._evaluation_due() and self._checkpoint_due(end_of_epoch)):
            self.save()  # where an evaluation is due it is saved with its result, so that none is recorded twice
        if stopping:
            raise Stopped(stop.signum or 15, f"step {state.step} of {self.plan.total_steps}")

    def _lr(self, step: int) -> float:
        return learning_rate(self.plan.schedule, step)

    # -- evaluation

    def _evaluation_due(self) -> bool:
        step, plan = self.state.step, self.plan
        return self.state.evaluated < step and (step % plan.eval_steps == 0 or step == plan.total_steps)

    def _evaluate(self, stop: StopRequest) -> None:
        state = self.state

        def interrupted() -> bool:
            return self.world.any(stop.signum is not None)

        candidates = {"raw": self.task.model} | ({"ema": self.ema.module} if self.ema else {})
        began = time.monotonic()
        try:
            results = self.task.evaluate(candidates, interrupted)
        except Interrupted:
            self.save()
            raise Stopped(stop.signum or 15, f"the evaluation after step {state.step}") from None
        metrics = {f"{label}/{name}": value for label, found in results.items() for name, value in found.items()}
        state.evaluated = state.step
        if self.recorder:
            self.recorder.record("eval", state.step, state.step / self.plan.steps_per_epoch, metrics)
        best = max(candidates, key=lambda label: metrics[f"{label}/{self.task.metric}"])
        score = metrics[f"{best}/{self.task.metric}"]
        if state.best is None or score > state.best["score"]:
            state.best = {"score": score, "weights": best, "step": state.step}
            if self.world.is_main:
                self._save_weights(best, RUN_FILES["best"], score)
        self.save()
        self._clock += time.monotonic() - began  # evaluation is not training time

    def _save_weights(self, which: str, name: str, score: float | None = None) -> None:
        model = self.ema.module if which == "ema" and self.ema else self.task.model
        facts = {"weights": which, "step": self.state.step}
        if score is not None:
            facts["metrics"] = {self.task.metric: score}
        self.task.save_weights(model, self.folder / name, facts)

    # -- records

    def _drain(self) -> None:
        """Bring the losses of the last steps to the host: the only time that it waits for the device."""
        state = self.state
        if not self._pending:
            return
        values = torch.stack([result for result, _ in self._pending]).tolist()
        first = state.step - len(values)
        parts = self.take_step.names
        for i, ((norm, skipped, *losses), (_, names)) in enumerate(zip(values, self._pending, strict=True)):
            entry = {"loss": sum(losses)} | (dict(zip(parts, losses, strict=True)) if len(parts) > 1 else {})
            state.window.append(entry | {"grad_norm": norm, "skipped": skipped})
            state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
            if skipped:
                state.skipped += 1
                self._note_nonfinite(first + i, entry["loss"], norm, names)
        self._pending.clear()
        if state.skipped_in_a_row >= self.recipe.max_nonfinite:
            raise ConvNextError(
                f"The loss or a gradient was not finite in {state.skipped_in_a_row} steps in a row, up to step {state.step} "
                f"(learning rate {self._lr(state.step - 1):.2e}); none of them changed the weights. The samples are listed in "
                f"{self.folder / 'nonfinite.jsonl'}. Lower --optim.lr, set --optim.clip-grad 1.0, or use --precision fp32, "
                "in a new folder."
            )

    def _note_nonfinite(self, step: int, loss: float, norm: float, names: list[str]) -> None:
        suffix = f"-rank{self.world.rank}" if self.world.size > 1 else ""
        record = {"step": step, "loss": repr(loss), "grad_norm": repr(norm), "samples": names}
        with open(self.folder / f"nonfinite{suffix}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.world.is_main:
            self.console.print(f"[yellow]step {step}: loss {loss}, gradient norm {norm}: skipped[/]")

    def _log(self) -> None:
        self._drain()
        state, now = self.state, time.monotonic()
        good = [entry for entry in state.window if not entry["skipped"]]
        skipped = len(state.window) - len(good)
        state.window.clear()
        seconds = max(now - self._clock, 1e-9)
        metrics = {"lr": self._lr(state.step - 1)}
        if good:
            means = {key: sum(entry[key] for entry in good) / len(good) for key in good[0] if key != "skipped"}
            metrics = {"loss": means.pop("loss"), **metrics, "grad_norm": means.pop("grad_norm"), **means}
        metrics |= {"images_per_second": self._images / seconds, "data_wait": min(self._waited / seconds, 1.0)}
        if skipped:
            metrics["skipped"] = float(skipped)
        self._clock, self._images, self._waited = now, 0, 0.0
        if self.recorder:
            began, first = self._started
            eta = (now - began) / (state.step - first) * (self.plan.total_steps - state.step)
            self.recorder.record("train", state.step, state.step / self.plan.steps_per_epoch, metrics, eta)

    # -- checkpoints

    def _checkpoint_due(self, end_of_epoch: bool) -> bool:
        runtime = self.recipe.runtime
        by_steps = runtime.checkpoint_steps and self.state.step % runtime.checkpoint_steps == 0
        by_time = time.monotonic() - self._saved_at > runtime.checkpoint_minutes * 60
        return bool(end_of_epoch or by_steps) or self.world.any(by_time)

    def save(self) -> None:
        """Write a checkpoint of this instant; the main process writes, all wait for nothing."""
        self._drain()
        self._saved_at = time.monotonic()
        if not self.world.is_main:
            return
        tensors = {f"model.{name}": value for name, value in self.task.model.state_dict().items()}
        if self.ema:
            tensors |= {f"ema.{name}": value for name, value in self.ema.module.state_dict().items()}
        tensors |= {f"optim.{key}": value for key, value in optim.optimizer_tensors(self.optimizer).items()}
        if scale := self.take_step.loss_scale:
            tensors |= {f"loss_scale.{name}": value for name, value in vars(scale).items()}
        manifest = {"state": asdict(self.state), "data": self.task.fingerprint}
        checkpoint.save(
            self.folder / "checkpoints", self.state.step, tensors, manifest, self.recipe.runtime.keep_checkpoints
        )  # fmt: skip

    def _restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = checkpoint.load_newest(self.folder / "checkpoints")
        if found is None:
            return
        tensors, manifest, complaints = found
        if manifest["data"] != self.task.fingerprint:
            raise ConvNextError(
                f"The training data has changed since the run in {self.folder} began (other images, labels or classes), so it "
                "cannot be continued. Restore the data, or start anew with another --out."
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optim": {}, "loss_scale": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.task.model.load_state_dict(parts["model"])
        if self.ema:
            self.ema.module.load_state_dict(parts["ema"])
        optim.load_optimizer_tensors(self.optimizer, parts["optim"])
        if scale := self.take_step.loss_scale:
            for name, value in parts["loss_scale"].items():
                getattr(scale, name).copy_(value)
        self.state = State(**manifest["state"])
        if self.world.is_main:
            for complaint in complaints:
                self.console.print(f"[yellow]{complaint}[/]")
            self.console.print(
                f"Continuing the run in {self.folder} from step {self.state.step:,} of {self.plan.total_steps:,}."
            )
