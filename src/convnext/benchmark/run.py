"""The benchmark: groups of configurations, each prepared, measured in turn, saved, and released before the next."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, groupby

import torch

from convnext.benchmark import ceilings, memory, networks
from convnext.benchmark.configs import Config
from convnext.benchmark.gpu_state import gpu_state
from convnext.benchmark.prepare import arithmetic, prepare
from convnext.benchmark.rows import Results, make_row
from convnext.benchmark.throughput import Clock, Runner, reason, run_rounds, warm_up

NO_TIME = "not measured: the time was used up"
Show = Callable[[str, float, float], None]
"""Takes a text, how much of the group is done, and how much there is."""
Say = Callable[[Config, str, float], None]
"""Takes a configuration, what is being done with it, and how much of the group is done."""


def _silent(text: str, done: float, total: float) -> None:
    pass


def benchmark(
    configs: Sequence[Config],
    device: torch.device,
    results: Results,
    rounds: int = 10,
    seconds: float = 0.5,
    with_memory: bool = True,
    show: Show = _silent,
    fresh: bool = False,
    clock: Clock = time.perf_counter,
    time_left: Callable[[], float] = lambda: float("inf"),
) -> None:
    """Measure the configurations that `results` lacks, and save it after every round.

    A configuration that fails becomes a row with an `error`. Any other exception, Ctrl-C included, is passed on; rows keep
    the rounds that were measured before it. Ceilings are measured where the file has none.

    Args:
        rounds: visits of each configuration.
        seconds: measuring time of a visit.
        with_memory: measure peak memory as well.
        show: called with the progress.
        fresh: measure all of them again.
        time_left: seconds; at 0 or less nothing more is prepared, and the rest gets an error that says so.
    """
    todo = [config for config in configs if fresh or not results.finished(config, rounds)]
    if not todo:
        results.save()
        return
    key, precisions = results.ceiling_key, dict.fromkeys(config.precision for config in todo)
    show("ceilings of the device", 0, 1)
    results.ceilings[key] = ceilings.measure(precisions, device, results.ceilings.get(key))
    session = _Session(device, results, rounds, seconds, with_memory, show, clock, time_left)
    for _, group in groupby(todo, key=lambda config: config.group):
        session.measure(list(group))


@dataclass
class _Session:
    """The settings of a benchmark, which measures one group of configurations after the other."""

    device: torch.device
    results: Results
    rounds: int
    seconds: float
    with_memory: bool
    show: Show
    clock: Clock
    time_left: Callable[[], float]

    def __post_init__(self):
        self.counted = cache(networks.counted)

    def measure(self, configs: Sequence[Config]) -> None:
        """Measure a group in turn, then one by one those that found no memory beside the others."""
        total = (2 + self.with_memory) * len(configs)

        def say(config: Config, doing: str, done: float) -> None:
            self.show(f"{config.model}, {config.label}: {doing}", done, total)

        for config in self.in_turn(configs, say):
            self.in_turn([config], lambda config, doing, _: say(config, f"{doing}, alone", total - 1), alone=True)

    def in_turn(self, configs: Sequence[Config], say: Say, alone: bool = False) -> list[Config]:
        """Measure configurations round by round; returns those that others left no memory for."""
        runners: list[Runner] = []
        visits = count()

        def visit(runner: Runner, done: int) -> None:
            share = min(next(visits) / (len(configs) * self.rounds), 1)
            say(runner.config, f"round {done + 1}", len(configs) * (1 + share))

        try:
            for number, config in enumerate(configs):
                say(config, "preparing", number)
                runners.append(self.started(config, alone))
            self.keep(runners)
            ready = [runner for runner in runners if runner.error is None]
            run_rounds(ready, self.device, self.rounds, self.seconds, self.clock, visit, lambda: self.keep(runners))
            for number, runner in enumerate(ready):
                if self.device.type == "cpu" and self.with_memory and runner.config.runtime == "torch":
                    say(runner.config, "memory", 2 * len(configs) + number)
                    if runner.error is None:
                        memory.add_cpu_memory(runner)
            self.keep(runners, finished=True)
        finally:
            self.keep(runners)
            for runner in runners:
                runner.step = _nothing
            _release(self.device, any(config.compile != "none" for config in configs))
        others = any(runner.samples for runner in runners)
        return [runner.config for runner in runners if others and not alone and _out_of_memory(runner)]

    def keep(self, runners: Sequence[Runner], finished: bool = False) -> None:
        """Save a row for each runner that has samples or failed.

        Until they are `finished`, a row of an earlier run with more rounds stays.
        """
        state = {"gpu": gpu_state(self.device.index or 0)} if self.device.type == "cuda" else {}
        for runner in runners:
            old = self.results.find(runner.config)
            better = old is not None and old["error"] is None and old["rounds"] > len(runner.samples)
            if (runner.samples or runner.error is not None) and (finished or not better):
                counted = self.counted(runner.config.model, runner.config.image_size)
                roof = self.results.ceilings[self.results.ceiling_key]
                row = make_row(runner, self.results.facts, self.results.run, self.results.command, counted, roof)
                self.results.add(row | state)
        self.results.save()

    def started(self, config: Config, alone: bool) -> Runner:
        """Build, compile and warm up; on a GPU measure memory too. A failure is the runner's `error`."""
        runner = Runner(config, _nothing, alone=alone)
        if self.time_left() <= 0:
            runner.error = NO_TIME
            return runner
        try:
            before = memory.GpuMemory(self.device) if self.with_memory and self.device.type == "cuda" else None
            start = self.clock()
            with arithmetic(config, self.device):
                runner.step = prepare(config, self.device)
            runner.build_seconds = self.clock() - start
            warm_up(runner, self.device, self.clock)
            if before is not None:
                runner.peak_memory, runner.memory_measure = before.of(runner)
        except Exception as error:  # of building, compiling or running, in any library: a row, not the end
            runner.error = reason(error)
            runner.step = _nothing
            _release(self.device)
        return runner


def _out_of_memory(runner: Runner) -> bool:
    return runner.error is not None and "out of memory" in runner.error.lower()


def _nothing() -> None:
    pass


def _release(device: torch.device, compiled: bool = False) -> None:
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
