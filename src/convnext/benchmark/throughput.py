"""Time of a step of several configurations, in turn: every round visits each of them, so that noise hits all alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from convnext.benchmark.configs import Config
from convnext.benchmark.prepare import arithmetic

WARM_UP_STEPS, WARM_UP_SECONDS, PATIENCE = 5, 0.5, 5.0
Clock = Callable[[], float]


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest of the sorted values, linearly."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float]:
    """p20, p50 and p80."""
    return {f"p{percent}": percentile(values, percent) for percent in (20, 50, 80)}


@dataclass
class Runner:
    """A configuration that runs, and its times so far: `samples` are seconds per step, one for each round.

    `first_seconds` is the first step with the building of the model, of images and, where there is one, the compilation
    before it; `warmup_seconds` what else came before the first sample. Both are in no sample.
    """

    config: Config
    step: Callable[[], object]
    build_seconds: float = 0.0
    first_seconds: float = 0.0
    warmup_seconds: float = 0.0
    estimate: float = 0.0
    steps: int = 1
    samples: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    memory_measure: str = ""
    alone: bool = False
    error: str | None = None

    @property
    def images_per_second(self) -> list[float]:
        return [self.config.batch / seconds for seconds in self.samples]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_up(runner: Runner, device: torch.device, clock: Clock = time.perf_counter) -> None:
    """The first step, which compiles, and some more until the speed is known."""

    def one() -> float:
        start = clock()
        runner.step()
        synchronize(device)
        return clock() - start

    with arithmetic(runner.config, device):
        runner.first_seconds = one()
        times = [one()]
        while sum(times) < PATIENCE and (len(times) < WARM_UP_STEPS or sum(times) < WARM_UP_SECONDS):
            times.append(one())
    runner.warmup_seconds += sum(times)
    runner.estimate = min(times[-3:])


def timed(runner: Runner, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds per step over `runner.steps` steps, after one that is not counted (the caches are another model's)."""
    with arithmetic(runner.config, device):
        runner.step()
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(runner.steps):
                runner.step()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000 / runner.steps
        begin = clock()
        for _ in range(runner.steps):
            runner.step()
        return (clock() - begin) / runner.steps


def run_rounds(
    runners: Sequence[Runner],
    device: torch.device,
    rounds: int,
    seconds: float,
    clock: Clock = time.perf_counter,
    show: Callable[[Runner, int], None] = lambda runner, done: None,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Add `rounds` samples to every runner, `seconds` of steps each; a round begins with another runner than the last.

    A runner that fails gets an `error` and is left out from then on. `show(runner, round)` is called before each visit.
    """
    for runner in runners:
        runner.steps = max(1, round(seconds / max(runner.estimate, 1e-9)))
    for done in range(rounds):
        shift = done % max(len(runners), 1)
        for runner in (*runners[shift:], *runners[:shift]):
            if runner.error is None:
                show(runner, done)
                try:
                    runner.samples.append(timed(runner, device, clock))
                except Exception as error:  # a kernel that fails, or memory that runs out: a row, not the end
                    runner.error = reason(error)
        after_round()


def reason(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")
