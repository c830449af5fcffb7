"""Peak memory of a configuration: of the allocator on a GPU; on a CPU of a process of its own, this module run as a program."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from convnext.benchmark.configs import Config
from convnext.benchmark.prepare import arithmetic, batch_bytes, prepare, rotations
from convnext.benchmark.throughput import Runner, reason, synchronize
from convnext.errors import ConvNextError

STEPS = 2
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class GpuMemory:
    """Bytes that one configuration takes among others on the same GPU: begin before building it, ask when it is warm."""

    def __init__(self, device: torch.device):
        self.device = device
        _empty(device)
        self.allocated = torch.cuda.memory_allocated(device)
        self.reserved = torch.cuda.memory_reserved(device)

    def of(self, runner: Runner) -> tuple[int, str]:
        """(bytes, how measured) of a step, with the weights and one batch of images.

        A step of a CUDA graph allocates nothing that the allocator sees, so there it is the memory kept for the graph.
        """
        others = (rotations(runner.config) - 1) * batch_bytes(runner.config)  # that are there for the timing only
        torch.cuda.reset_peak_memory_stats(self.device)
        with arithmetic(runner.config, self.device):
            runner.step()
        synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device) - self.allocated - others
        if not (runner.config.graph or runner.config.compile in ("max-autotune", "reduce-overhead")):
            return peak, "max_memory_allocated during a step"
        _empty(self.device)
        kept = torch.cuda.memory_reserved(self.device) - self.reserved - others
        return max(peak, kept), "max_memory_allocated during a step, or memory_reserved with the graph's pool if more"


def _empty(device: torch.device) -> None:
    gc.collect()
    synchronize(device)
    torch.cuda.empty_cache()


def add_cpu_memory(runner: Runner) -> None:
    """Set the runner's peak memory, or why it could not be measured, which is no error of the configuration."""
    try:
        runner.peak_memory, runner.memory_measure = cpu_memory(runner.config)
    except Exception as error:
        runner.memory_measure = f"not measured: {reason(error)}"


def cpu_memory(config: Config) -> tuple[int, str]:
    """(bytes, how measured): how far a fresh process grows from before building the model to the peak of its steps.

    Raises:
        ConvNextError: the process fails, or the system does not tell.
    """
    arguments = json.dumps({"config": config.to_dict(), "threads": torch.get_num_threads()})
    done = subprocess.run(
        [sys.executable, "-m", "convnext.benchmark.memory", arguments], capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ConvNextError(f"the process that measures memory failed: {lines[-1] if lines else done.returncode}")
    how = "growth of the resident set of a fresh process"
    if config.compile != "none":
        how += ", which keeps the compiler's memory too"
    return json.loads(done.stdout.splitlines()[-1])["bytes"], how


def grown(config: Config) -> int:
    """Measure in the fresh process of `cpu_memory`: bytes from before the model to the peak of two warm steps."""
    device = torch.device("cpu")
    _load_libraries()
    gc.collect()
    before = resident()[0]
    with arithmetic(config, device):
        step = prepare(config, device, rotated=False)
        step()
        gc.collect()
        _forget_peak()  # building and compiling may have taken more for a while
        for _ in range(STEPS):
            step()
    return max(resident()[1] - before, 0)


def _load_libraries() -> None:
    """Have the code of convolution, product and optimizer in memory before counting."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 8))
    optimizer = torch.optim.AdamW(layers.parameters(), fused=True)
    layers(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()


def resident() -> tuple[int, int]:
    """Bytes in memory now, and at most since the last `_forget_peak`."""
    if STATUS.exists():
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB", STATUS.read_text(), re.MULTILINE))
        if len(found) == 2:
            return 1024 * int(found["VmRSS"]), 1024 * int(found["VmHWM"])
    try:
        import resource
    except ImportError:
        raise ConvNextError("this system does not tell how much memory a process takes; give --no-memory") from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak


def _forget_peak() -> None:
    try:
        CLEAR.write_text("5")
    except OSError:  # then the peak since the start counts
        return


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    print(json.dumps({"bytes": grown(Config(**given["config"]))}))
