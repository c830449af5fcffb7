"""A task small enough to train in milliseconds: a linear model on random numbers, through the whole engine."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from convnext.engine.loop import Run
from convnext.recipes.plan import make_plan
from convnext.recipes.schema import Classification, Ema, Optim, Runtime
from convnext.runtime.world import World
from convnext.seeding import derive

WORLD = World(torch.device("cpu"))
SAMPLES = 32


def toy_recipe(**fields) -> Classification:
    """4 steps an epoch, 2 epochs."""
    fields = {
        "epochs": 2,
        "total_batch": 8,
        "device_batch": 4,
        "optim": Optim(lr=1e-2, warmup_epochs=0.0),
        "ema": Ema(decay=0.5),
        "runtime": Runtime(workers=0, log_every=1),
    } | fields
    return Classification(**fields)


class Toy:
    """A `convnext.engine.task.Task`. `on_batch` and `on_evaluate` are called at those moments."""

    metric = "top1"
    fingerprint = "toy"
    validates = True

    def __init__(self, plan, on_batch: Callable[[int], object] = id, on_evaluate: Callable[[dict], dict] | None = None):
        torch.manual_seed(0)
        self.plan, self.on_batch, self.on_evaluate = plan, on_batch, on_evaluate
        self.model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def batches(self, start: int) -> Iterator[Tensor]:
        for micro in range(start * self.plan.accumulation, self.plan.total_steps * self.plan.accumulation):
            self.on_batch(micro)
            yield torch.randn(4, 4, generator=torch.Generator().manual_seed(derive("batch", micro)))

    def mix(self, batch: Tensor) -> Tensor:
        return batch

    def losses(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": model(batch).square().mean()}

    def sample_names(self, batch: Tensor) -> list[str]:
        return [f"row {i}" for i in range(len(batch))]

    def evaluate(self, models: dict[str, nn.Module], interrupted: Callable[[], bool]) -> dict[str, dict[str, float]]:
        results = {}
        for label, model in models.items():
            training = model.training
            loss = model.eval()(torch.ones(1, 4)).square().mean().item()
            model.train(training)
            results[label] = {"loss": loss, "top1": -loss}
        return self.on_evaluate(results, interrupted) if self.on_evaluate else results

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        save_file(model.state_dict(), path)


def make_run(folder: Path, task_options: dict | None = None, world: World = WORLD, **fields) -> Run:
    """A run in `folder`, new or continued; `run.console.file.getvalue()` is what it printed."""
    recipe = toy_recipe(**fields)
    plan = make_plan(recipe, SAMPLES, world.size)
    console = Console(file=io.StringIO(), width=10_000)
    folder.mkdir(exist_ok=True)
    return Run(Toy(plan, **task_options or {}), recipe, plan, folder, world, console)


def printed(run: Run) -> str:
    return run.console.file.getvalue()
