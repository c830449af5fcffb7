"""The run: steps, evaluations, checkpoints, stopping and resuming, for any task.

The whole state of a run is `State` and the tensors of model, optimizer, EMA and loss scale; randomness is a function of
(seed, step), so a killed run continues to the same bits as one that was not.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from convnext.engine import checkpoint, optim
from convnext.engine.ema import MovingAverage
from convnext.engine.freeze import freeze
from convnext.engine.graphed import make_step
from convnext.engine.meter import Meter
from convnext.engine.recorder import Recorder
from convnext.engine.schedule import learning_rate
from convnext.engine.sound import is_sound, unsound
from convnext.engine.task import Task
from convnext.engine.waiting import advice
from convnext.errors import ConvNextError
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Recipe
from convnext.runtime.failures import explained, hung
from convnext.runtime.interruption import Hung, Interrupted, Stopped, StopRequest
from convnext.runtime.names import CHECKPOINTS, RUN_FILES, of_rank
from convnext.runtime.precision import resolve_precision
from convnext.runtime.world import World


@dataclass
class State:
    """Progress of a run; saved in every checkpoint."""

    step: int = 0
    evaluated: int = 0  # the step of the last evaluation
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: dict | None = None  # {"score", "weights": "raw" | "ema", "step"}; no score where nothing was evaluated
    without_gain: int = 0  # evaluations in a row without a new best, of those that count for `patience`
    window: list = field(default_factory=list)  # {loss.., grad_norm, skipped} of the steps since the last record


class Run:
    """A training run in `folder`: `Run(...).fit()`."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        plan: Plan,
        folder: Path,
        world: World,
        console,
        on_record: Callable[[dict], None] | None = None,
    ):
        """Continues from the folder's newest checkpoint, if there is one; `on_record` is called with every record.

        Raises:
            ConvNextError: all checkpoints are damaged, or the training data is not that of the run.
        """
        self.task, self.recipe, self.plan, self.folder, self.world, self.console = (
            task, recipe, plan, folder, world, console,
        )  # fmt: skip
        frozen = freeze(task.model, recipe.freeze)
        self.optimizer = optim.make_optimizer(task.model, recipe.optim, recipe.decay_rule)
        self.ema = MovingAverage(task.model, plan.ema_decay) if plan.ema_decay else None
        precision = resolve_precision(recipe.precision, world.device)
        self.take_step = make_step(recipe, plan, task, self.optimizer, world, precision, self.ema, frozen)
        self.state = State()
        self._restore()
        if recipe.compile:
            task.model.compile()  # in place: parameter names stay clean
        self.recorder = None
        if world.is_main:
            self.recorder = Recorder(folder, console, plan.total_steps, self.state.step, on_record)
        # several processes stop together, after a step; one of them that cannot must not wait for ever
        self.stop = StopRequest(0.5 if world.size == 1 else 5.0, patience=60 * world.timeout)
        self._meter = Meter(self.state.step)
        self._saved_at, self._advised = time.monotonic(), False
        self._pending: list[tuple[Tensor, list[str]]] = []  # results of steps that are still on the device

    # -- the run

    def fit(self) -> State:
        """Train to the end.

        Raises:
            Stopped: a signal came; the state is saved.
            ConvNextError: too many non-finite steps in a row, too many unreadable images, a full disk, or the death of a
                data loading process or of another process of the run.
        """
        plan, state = self.plan, self.state
        with self.stop, explained(self.world), closing(self.recorder) if self.recorder else nullcontext():
            batches = self.task.batches(state.step) if state.step < plan.total_steps else iter(())
            while True:
                if self._evaluation_due():
                    self._evaluate()
                if state.step == plan.total_steps or state.without_gain >= (self.recipe.patience or math.inf):
                    break
                self._one_step(batches)
                self._after_step()
            del batches  # ends the loaders, whose death means nothing any more
        if self.world.is_main:
            self._save_weights("raw", RUN_FILES["raw"])
            if self.ema:
                self._save_weights("ema", RUN_FILES["ema"])
            if not self.task.validates:
                self._take_the_last()
        return state

    def _take_the_last(self) -> None:
        """Without an evaluation, the last weights are the best, their average where there is one."""
        which = "ema" if self.ema else "raw"
        self.state.best = {"weights": which, "step": self.state.step}
        self._save_weights(which, RUN_FILES["best"])

    def _one_step(self, batches: Iterator) -> None:
        state, plan, model = self.state, self.plan, self.task.model
        optim.set_lr(self.optimizer, self._lr(state.step))
        names: list[str] = []

        def micro_batches():
            for _ in range(plan.accumulation):
                asked = time.monotonic()
                with self.stop.interruptible():
                    batch = next(batches)
                self._meter.waited += time.monotonic() - asked
                names.extend(self.task.sample_names(batch))
                yield batch

        # BatchNorm's statistics move with every micro-batch, so a step that is abandoned between two has to undo them
        before = [buffer.clone() for buffer in model.buffers()] if plan.accumulation > 1 else []
        try:
            result = self.take_step(micro_batches(), plan.accumulation, (self.recipe.seed, "step", state.step))
        except Interrupted as interruption:
            with torch.no_grad():
                for buffer, value in zip(model.buffers(), before, strict=False):
                    buffer.copy_(value)
            where = f"step {state.step} of {plan.total_steps}, waiting for data"
            raise self._abandoned(interruption, where) from None
        self._pending.append((result, names))
        self._meter.images += plan.total_batch
        state.step += 1

    def _after_step(self) -> None:
        state, runtime = self.state, self.recipe.runtime
        if self.recorder:
            self.recorder.advance(state.step)
        end_of_epoch = state.step % self.plan.steps_per_epoch == 0
        if state.step % runtime.log_every == 0 or end_of_epoch:
            self._log()
        elif len(self._pending) >= self.recipe.max_nonfinite:
            self._drain()
        stopping = self.world.any(self.stop.signum is not None)
        if stopping or (not self._evaluation_due() and self._checkpoint_due(end_of_epoch)):
            self.save()  # where an evaluation is due it is saved with its result, so that none is recorded twice
        if stopping:
            raise Stopped(self.stop.signum or 15, f"step {state.step} of {self.plan.total_steps}")

    def _lr(self, step: int) -> float:
        return learning_rate(self.plan.schedule, step)

    # -- evaluation

    def _evaluation_due(self) -> bool:
        step, plan = self.state.step, self.plan
        return (
            self.task.validates
            and self.state.evaluated < step
            and (step % plan.eval_steps == 0 or step == plan.total_steps)
        )

    def _evaluate(self) -> None:
        state = self.state
        models = {"raw": self.task.model} | ({"ema": self.ema.module} if self.ema else {})
        began = time.monotonic()
        try:
            with self.stop.interruptible():
                results = self.task.evaluate(models, self._asked_to_stop)
        except Interrupted as interruption:
            raise self._abandoned(interruption, f"the evaluation after step {state.step}") from None
        state.evaluated = state.step
        scores = {label: found[self.task.metric] for label, found in results.items()}
        sound = {
            label: x for label, x in scores.items() if math.isfinite(x) and is_sound(models[label], results[label])
        }
        if self.recorder:
            metrics = {f"{label}/{name}": value for label, found in results.items() for name, value in found.items()}
            broken = " and ".join(label for label in scores if label not in sound)
            note = (
                f"The {broken} weights, their loss or their {self.task.metric} are not finite: their figures mean nothing, and "
                "they are not taken as the best."
            )
            epoch = state.step / self.plan.steps_per_epoch
            self.recorder.record("eval", state.step, epoch, metrics, note=note if broken else "")
        sign = -1.0 if self.task.metric == "loss" else 1.0
        best = max(sound, key=lambda label: sign * sound[label], default=None)
        before = sign * state.best["score"] if state.best else math.nan
        if best is not None and not sign * sound[best] < before:  # of equal scores the later, which has learnt longer
            state.best = {"score": sound[best], "weights": best, "step": state.step}
            if self.world.is_main:
                self._save_weights(best, RUN_FILES["best"], sound[best])
        if best is not None and not sign * sound[best] <= before:
            state.without_gain = 0
        elif state.step > self.plan.schedule.warmup_steps and self._lr(state.step) <= self.plan.schedule.lr / 2:
            state.without_gain += 1
        self.save()
        self._meter.pause(time.monotonic() - began)

    def _asked_to_stop(self) -> bool:
        """True on every process if one of them was asked; evaluations ask before each batch."""
        self.stop.moved_on()
        return self.world.any(self.stop.signum is not None)

    def _abandoned(self, interruption: Interrupted, where: str) -> Exception:
        """Save the state; what the run ends with."""
        self.save()
        self.stop.kill_children()  # they hang, and would keep this process from ending
        if isinstance(interruption, Hung):
            return ConvNextError(hung(self.world, where))
        return Stopped(self.stop.signum or 15, where)

    def _save_weights(self, which: str, name: str, score: float | None = None) -> None:
        model = self.ema.module if which == "ema" and self.ema else self.task.model
        facts = {"weights": which, "step": self.state.step}
        if score is not None:
            facts["metrics"] = {self.task.metric: score}
        self.task.save_weights(model, self.folder / name, facts)

    # -- records

    def _drain(self) -> None:
        """Bring the losses of the last steps to the host; nothing else waits for the device."""
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
            raise unsound(state.skipped_in_a_row, state.step, self._lr(state.step - 1), self._nonfinite)

    @property
    def _nonfinite(self) -> Path:
        return self.folder / of_rank("nonfinite", self.world.rank, self.world.size)

    def _note_nonfinite(self, step: int, loss: float, norm: float, names: list[str]) -> None:
        record = {"step": step, "loss": repr(loss), "grad_norm": repr(norm), "samples": names}
        with open(self._nonfinite, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.world.is_main:
            self.console.print(f"step {step}: loss {loss}, gradient norm {norm}: skipped", style="yellow")

    def _log(self) -> None:
        self._drain()
        state = self.state
        good = [entry for entry in state.window if not entry["skipped"]]
        skipped = len(state.window) - len(good)
        state.window.clear()
        metrics = {"lr": self._lr(state.step - 1)}
        if good:
            means = {key: sum(entry[key] for entry in good) / len(good) for key in good[0] if key != "skipped"}
            metrics = {"loss": means.pop("loss"), **metrics, "grad_norm": means.pop("grad_norm"), **means}
        metrics |= self._meter.read()
        if skipped:
            metrics["skipped"] = float(skipped)
        if self.recorder:
            eta = self._meter.eta(state.step, self.plan.total_steps)
            runtime, kind = self.recipe.runtime, self.world.device.type
            note = "" if self._advised else advice(metrics["data_wait"], kind, runtime.workers, self.recipe.data)
            self._advised = self._advised or bool(note)  # once a run
            self.recorder.record("train", state.step, state.step / self.plan.steps_per_epoch, metrics, eta, note)

    # -- checkpoints

    def _checkpoint_due(self, end_of_epoch: bool) -> bool:
        runtime = self.recipe.runtime
        by_steps = runtime.checkpoint_steps and self.state.step % runtime.checkpoint_steps == 0
        by_time = time.monotonic() - self._saved_at > runtime.checkpoint_minutes * 60
        return bool(end_of_epoch or by_steps) or self.world.any(by_time)

    def save(self) -> None:
        """Write a checkpoint; the main process does, and the others do not wait for it."""
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
        manifest = {
            "state": asdict(self.state),
            "data": self.task.fingerprint,
            "processes": self.plan.devices,
            "device_batch": self.plan.device_batch,
        }
        checkpoint.save(
            self.folder / CHECKPOINTS, self.state.step, tensors, manifest, self.recipe.runtime.keep_checkpoints
        )  # fmt: skip

    def _restore(self) -> None:
        """Load the newest checkpoint, if there is one."""
        found = checkpoint.load_newest(self.folder / CHECKPOINTS)
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
                self.console.print(complaint, style="yellow", markup=False)
            self.console.print(
                f"Continuing the run in {self.folder} from step {self.state.step:,} of {self.plan.total_steps:,}."
            )
            self._say_what_changed(manifest)

    def _say_what_changed(self, manifest: dict) -> None:
        """A line if the processes or their batches are not those of the checkpoint: each draws its own random numbers."""
        now = {"processes": self.plan.devices, "device_batch": self.plan.device_batch}
        changes = [
            f"{manifest[key]} {words} before, {value} now"
            for (key, value), words in zip(now.items(), ("processes", "images per forward pass"), strict=True)
            if manifest.get(key, value) != value
        ]
        if changes:
            self.console.print(
                f"{'; '.join(changes)}: the order of the images stays the same, the results no longer to the last bit.",
                style="yellow",
            )
