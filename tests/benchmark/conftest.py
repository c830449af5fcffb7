"""A machine on which time passes as the test says, and models that take as long as it says."""

import pytest
import torch

from convnext.benchmark import ceilings, run


class FakeClock:
    """Time passes only when a step takes it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float):
        """A step that takes these times in turn, the last one for ever; `calls` counts them."""
        times = list(seconds)

        def step():
            step.calls += 1
            self.now += times.pop(0) if len(times) > 1 else times[0]

        step.calls = 0
        return step


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def cpu():
    return torch.device("cpu")


@pytest.fixture
def fake_machine(monkeypatch, clock):
    """`run.prepare` gives steps of `seconds[model]`, or raises what stands there; returns (clock, seconds, prepared)."""
    seconds, prepared = {}, []

    def prepare(config, device):
        prepared.append(config)
        clock.now += 3.0  # of building
        time = seconds[config.model]
        if isinstance(time, BaseException):
            raise time
        return clock.taking(time)

    monkeypatch.setattr(run, "prepare", prepare)
    monkeypatch.setattr(run, "_release", lambda *_: None)  # there is nothing to collect
    monkeypatch.setattr(
        ceilings, "measure", lambda *_: {"copy_gb_per_second": 10.0, "matmul_tflops": {"fp32": 0.5, "bf16": 1.0}}
    )
    return clock, seconds, prepared
