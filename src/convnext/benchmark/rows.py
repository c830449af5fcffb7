"""A measured configuration as a row of JSON, and the file of rows: what is finished is kept, ratios are always of the whole."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from convnext import __version__
from convnext.benchmark.configs import Config, library_of
from convnext.benchmark.flops import Count
from convnext.benchmark.networks import architecture
from convnext.benchmark.prepare import weights_dtype
from convnext.benchmark.throughput import Runner, spread
from convnext.errors import ConvNextError
from convnext.files import replace_text

FORMAT = 1
PACKAGE = Path(__file__).parents[1]
SPEED = ("models", "ops", "export", "benchmark")  # folders whose code decides what is measured
SAME = ("config", "device", "versions", "commit", "source")


def environment(device: torch.device) -> dict:
    """Device, versions and code that a row is measured with; rows of another environment are never taken for this one's."""
    versions = {"convnext": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("torchvision", "timm", *(("triton",) if device.type == "cuda" else ("onnxruntime", "openvino"))):
        with suppress(PackageNotFoundError):  # the runtimes are extras
            versions[name] = version(name)
    if device.type == "cuda":
        versions["cuda"] = torch.version.cuda or ""
    return {"device": describe(device), "versions": versions, "commit": commit(), "source": source()}


def describe(device: torch.device) -> str:
    """The name of the GPU, or of the CPU and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """Short commit of the clone that this package is in; None for an installed one."""
    if not (PACKAGE.parents[1] / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def source() -> str:
    """A digest of the code that decides the speed, so that work in progress is told apart within a commit."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SPEED for path in (PACKAGE / folder).rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def make_row(runner: Runner, facts: dict, run: str, command: str, counted: Count | None, ceilings: dict | None) -> dict:
    """`facts` of `environment`; `run` is when the command began, the same for all that was measured in turn."""
    config = runner.config
    row = facts | {
        "config": config.to_dict(),
        "library": library_of(config.model),
        "weights": "random",
        "command": command,
        "run": run,
        "rounds": len(runner.samples),
        "steps_per_round": runner.steps,
        "build_seconds": round(runner.build_seconds, 3),
        "compile_seconds" if config.compile != "none" else "first_step_seconds": round(runner.first_seconds, 3),
        "warmup_seconds": round(runner.warmup_seconds, 3),
        "error": runner.error,
    }
    if counted:
        row |= {"params": counted.params, "macs": counted.macs}
    if runner.peak_memory is not None:
        row |= {"peak_memory_mb": round(runner.peak_memory / 1e6, 1), "memory_measure": runner.memory_measure}
    if runner.alone:
        row["alone"] = True  # there was no memory for it beside the others, so it was measured after them
    if runner.error is None and runner.samples:
        row["images_per_second"] = spread(runner.images_per_second)
        row["milliseconds"] = spread([1000 * seconds for seconds in runner.samples])
        if counted:
            row |= achieved(config, counted, row["images_per_second"]["p50"], ceilings or {})
    return row


def achieved(config: Config, counted: Count, images_per_second: float, ceilings: dict) -> dict:
    """TFLOP/s and GB/s, and their shares of the measured ceilings.

    FLOPs are two per MAC of convolutions and linear layers, three times that in training. The bytes are a model, not a
    measurement: every such layer reads one tensor and writes one (what it puts out stands for both), the weights are read
    once, and training does all of it three times. What stands between the layers would be fused, so real traffic is more.
    """
    times = 3 if config.mode == "train" else 1
    tflops = times * 2 * counted.macs * images_per_second / 1e12
    bytes_each = 2 * counted.activations + 3 * config.image_size**2 + counted.params / config.batch
    itemsize = 2 if config.precision in ("fp16", "bf16") else weights_dtype(config).itemsize
    gigabytes = times * bytes_each * itemsize * images_per_second / 1e9
    found = {"tflops": round(tflops, 4), "model_gb_per_second": round(gigabytes, 2)}
    if (roof := ceilings.get("matmul_tflops", {}).get(config.precision)) and not config.quantised:
        found["share_of_matmul"] = round(tflops / roof, 4)
    if roof := ceilings.get("copy_gb_per_second"):
        found["share_of_copy"] = round(gigabytes / roof, 4)
    return found


def add_ratios(rows: Sequence[dict]) -> None:
    """Set `ratio` and `ratio_to` of every row: its p50 over that of the best peer configuration that does the same work.

    The same work is the group of the configuration, in int8 or not, on the same device with the same versions, of the same
    architecture; where no peer has this architecture, the best of all peers; without peers there is none. Peers of the same
    run go before others.
    """
    for row in rows:
        for name in ("ratio", "ratio_to", "ratio_same_run"):
            row.pop(name, None)
        config = Config(**row["config"])
        if "images_per_second" not in row:
            continue
        peers = [
            other
            for other in rows
            if other["library"] != "ours"
            and "images_per_second" in other
            and Config(**other["config"]).group == config.group
            and Config(**other["config"]).quantised == config.quantised
            and (other["device"], other["versions"]) == (row["device"], row["versions"])
        ]
        alike = [p for p in peers if architecture(p["config"]["model"]) == architecture(config.model)]
        in_turn = [p for p in alike or peers if p["run"] == row["run"]]  # noise is the same for these
        best = max(in_turn or alike or peers, key=lambda p: p["images_per_second"]["p50"], default=None)
        if best is not None:
            theirs = Config(**best["config"])
            row["ratio"] = round(row["images_per_second"]["p50"] / best["images_per_second"]["p50"], 4)
            row["ratio_to"] = f"{theirs.model} ({theirs.label})"
            row["ratio_same_run"] = best["run"] == row["run"]


@dataclass
class Results:
    """The rows of a file, of this and of earlier runs; without a path they are kept in memory only."""

    facts: dict
    command: str
    path: Path | None = None
    rows: list[dict] = field(default_factory=list)
    ceilings: dict[str, dict] = field(default_factory=dict)
    """By device and version of torch."""
    run: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def open(cls, path: Path | None, facts: dict, command: str) -> "Results":
        """
        Raises:
            ConvNextError: the file is damaged or of another kind.
        """
        results = cls(facts, command, path)
        if path is not None and path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["format"] != FORMAT:
                    raise ValueError(f"it has format {content['format']}, and this version reads format {FORMAT}")
                results.rows, results.ceilings = list(content["rows"]), dict(content["ceilings"])
                for row in results.rows:
                    Config(**row["config"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConvNextError(
                    f"{path} is no file of `convnext benchmark` ({error}). Give another --out, or move the file away."
                ) from error
        return results

    @property
    def ceiling_key(self) -> str:
        return f"{self.facts['device']}, torch {self.facts['versions']['torch']}"

    def find(self, config: Config) -> dict | None:
        """The row of this configuration in this environment."""
        key = {**self.facts, "config": config.to_dict()}
        return next((row for row in self.rows if all(row.get(name) == key[name] for name in SAME)), None)

    def finished(self, config: Config, rounds: int) -> bool:
        """True if there is a row without an error, of as many rounds."""
        row = self.find(config)
        return row is not None and row["error"] is None and row["rounds"] >= rounds

    def add(self, row: dict) -> None:
        """Add a row in place of the one of the same configuration and environment."""
        old = self.find(Config(**row["config"]))
        self.rows = [*(other for other in self.rows if other is not old), row]

    def save(self) -> None:
        """Compute the ratios and write the file; a reader or a kill never meets half of it."""
        add_ratios(self.rows)
        if self.path is not None:
            content = {"format": FORMAT, "what": WHAT, "ceilings": self.ceilings, "rows": self.rows}
            replace_text(self.path, json.dumps(content, indent=1) + "\n")


WHAT = (
    "Speed and memory of classifiers with random weights on random images: every round visits every configuration of a group; "
    "p20, p50 and p80 are over rounds; building, compiling and warming up are in none of them; ratio is to the best peer."
)
