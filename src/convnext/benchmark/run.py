"""The benchmark: groups of configurations, each prepared, measured in turn, written, and released before the next."""

import gc
import time
from collections.abc import Callable, Sequence
from itertools import count, groupby

import torch

from convnext.benchmark import ceilings, memory, networks
from convnext.benchmark.configs import Config
from convnext.benchmark.prepare import arithmetic, prepare
from convnext.benchmark.rows import Results, make_row
from convnext.benchmark.throughput import Clock, Runner, reason, run_rounds, warm_up

Show = Callable[[str, float, float], None]
"""What is being done, and how much of how much of the group is done."""


def _silent(what: str, done: float, total: float) -> None:
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
    """Measure what `results` does not have yet, and save it after every group.

    A configuration that fails is a row with an `error`. Ctrl-C saves what has been measured, with its number of rounds, and goes
    on up; so does everything else that is no error of a configuration. Ceilings are measured where the file has none.

    Args:
        fresh: measure all of them.
        time_left: seconds; nothing more is prepared when there are none, and the rest gets an error that says so.
    """
    todo = [config for config in configs if fresh or not results.finished(config, rounds)]
    if not todo:
        results.save()
        return
    key, precisions = results.ceiling_key, dict.fromkeys(config.precision for config in todo)
    show("ceilings of the device", 0, 1)
    results.ceilings[key] = ceilings.measure(precisions, device, results.ceilings.get(key))
    for _, group in groupby(todo, key=lambda config: config.group):
        _group(list(group), device, results, rounds, seconds, with_memory, show, clock, time_left)


def _group(
    configs: list[Config], device: torch.device, results: Results, rounds, seconds, with_memory, show, clock, time_left
):
    total = (2 + with_memory) * len(configs)
    runners: list[Runner] = []
    failed: list[Runner] = []

    def keep() -> None:
        for runner in (*runners, *failed):
            if runner.samples or runner.error is not None:
                counted = networks.counted(runner.config.model, runner.config.image_size)
                roof = results.ceilings[results.ceiling_key]
                results.add(make_row(runner, results.facts, results.run, results.command, counted, roof))
        results.save()

    visits = count()

    def visit(runner: Runner, done: int) -> None:
        share = min(next(visits) / (len(configs) * rounds), 1)
        show(f"{runner.config.model}, {runner.config.label}: round {done + 1}", len(configs) * (1 + share), total)

    try:
        for number, config in enumerate(configs):
            show(f"{config.model}, {config.label}: preparing", number, total)
            runner = _started(config, device, with_memory, clock, time_left)
            (failed if runner.error else runners).append(runner)
        run_rounds(runners, device, rounds, seconds, clock, visit)
        crowded = [runner for runner in (*runners, *failed) if runners and _out_of_memory(runner)]
        for runner in runners:
            if runner not in crowded:
                _measure_cpu_memory(
                    runner, device, with_memory, show, (2 * len(configs) + runners.index(runner), total)
                )
        if crowded:  # the others' weights and graphs may have taken the memory that these need
            keep()
            configs_alone = [runner.config for runner in crowded]
            runners, failed = [], []
            _release(device)
            for config in configs_alone:
                runner = _started(config, device, with_memory, clock, time_left)
                runner.alone = True
                if runner.error is None:
                    run_rounds([runner], device, rounds, seconds, clock, visit)
                    _measure_cpu_memory(runner, device, with_memory, show, (total - 1, total))
                runner.step = _nothing
                failed.append(runner)
                _release(device)
    finally:
        keep()
        for runner in (*runners, *failed):
            runner.step = _nothing
        _release(device, any(config.compile != "none" for config in configs))


def _started(config: Config, device: torch.device, with_memory: bool, clock: Clock, time_left) -> Runner:
    """Built, compiled, warm, and on a GPU with its memory measured; or with an error."""
    runner = Runner(config, _nothing)
    if time_left() <= 0:
        runner.error = "not measured: the time was used up"
        return runner
    try:
        before = memory.GpuMemory(device) if with_memory and device.type == "cuda" else None
        start = clock()
        with arithmetic(config, device):
            runner.step = prepare(config, device)
        runner.build_seconds = clock() - start
        warm_up(runner, device, clock)
        if before is not None:
            runner.peak_memory, runner.memory_measure = before.of(runner)
    except Exception as error:  # of building, compiling or running, in any library: a row, not the end
        runner.error = reason(error)
        runner.step = _nothing
        _release(device)
    return runner


def _measure_cpu_memory(
    runner: Runner, device: torch.device, with_memory: bool, show: Show, at: tuple[int, int]
) -> None:
    if device.type == "cpu" and with_memory and runner.error is None and runner.config.runtime == "torch":
        show(f"{runner.config.model}, {runner.config.label}: memory", *at)
        try:
            runner.peak_memory, runner.memory_measure = memory.cpu_memory(runner.config)
        except Exception as error:
            runner.memory_measure = f"not measured: {reason(error)}"


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
