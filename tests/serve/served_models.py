"""Small models of every task with random weights, as files; a service of them, asked without a network or in a process."""

import json
import os
import re
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from convnext import create_model, save_weights
from convnext.serve.app import create_app
from convnext.serve.options import Limits, Options
from convnext.serve.service import Service

CLASSES = ["cat", "<b>dog</b>", "bird"]


def classifier(file: Path, seed: int = 0) -> Path:
    """A classifier of three classes on 32 px, whose answers depend on the image."""
    torch.manual_seed(seed)
    name = "roadmap_resnet50_separate-downsampling"
    model = create_model(name, num_classes=3, width_mult=0.125, depth_mult=0.34, head_init_scale=1.0)
    return save_weights(
        model,
        file,
        metadata={"task": "classification", "classes": CLASSES, "preprocess": {"size": 32, "crop_ratio": 1.0}},
    )


def detector(file: Path) -> Path:
    """A detector on short sides of 64 px; random weights find objects at random."""
    torch.manual_seed(0)
    model = create_model("mask_rcnn_convnext_atto", num_classes=3)
    dense = {"short": 64, "long": 128}
    return save_weights(model, file, metadata={"task": "detection", "classes": CLASSES, "preprocess": dense})


def segmenter(file: Path) -> Path:
    """A segmenter on windows of 64 px."""
    torch.manual_seed(0)
    model = create_model("upernet_convnext_atto", num_classes=3, channels=16, auxiliary_channels=8)
    dense = {"short": 64, "long": 128, "crop": 64}
    return save_weights(model, file, metadata={"task": "segmentation", "classes": CLASSES, "preprocess": dense})


def picture(seed: int = 0, width: int = 80, height: int = 60, form: str = "PNG") -> bytes:
    """Bytes of an image with structure at several scales."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    stream = BytesIO()
    coarse.save(stream, form)
    return stream.getvalue()


def service_of(models: dict[str, Path], limits: Limits | None = None, **options) -> Service:
    """A service of model files."""
    paths = {name: str(path) for name, path in models.items()}
    return Service(Options(paths, {}, limits or Limits(), device="cpu", **options))


class Asked:
    """A client of a service in this process and event loop: `async with Asked(service) as client`."""

    def __init__(self, service: Service, **headers: str):
        self.service = service
        transport = httpx.ASGITransport(create_app(service))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)

    async def __aenter__(self) -> httpx.AsyncClient:
        self.service.start()
        return self.client

    async def __aexit__(self, *_):
        await self.client.aclose()
        for served in self.service.models.values():
            await served.batcher.stop()


class Process:
    """`convnext serve` in a process of its own, at a free port."""

    def __init__(self, *words: str | Path, env: dict[str, str] | None = None):
        command = [sys.executable, "-m", "convnext", "serve", *map(str, words), "--port", "0", "--device", "cpu"]
        source = Path(__file__).parents[2] / "src"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source), **(env or {})}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.lines: list[str] = []
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"Serving at (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError(f"it did not start: {self.process.communicate()[1]}")

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self, signum: int, timeout: float = 30) -> tuple[int, str]:
        """Send a signal; the exit code and what the process said."""
        self.process.send_signal(signum)
        said = self.process.communicate(timeout=timeout)[1]
        return self.process.returncode, said

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def rss(self, field: str = "VmRSS") -> int:
        """Bytes of memory in use; VmHWM: the most since `forget_peak`."""
        fields = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", fields)[1]) * 1024

    def forget_peak(self) -> None:
        """Begin to measure the peak again."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def until(true, seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def told(response: httpx.Response) -> str:
    """The sentence of a refusal."""
    return json.loads(response.content)["error"]
