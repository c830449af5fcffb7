"""A model that is served: loaded, warmed, replaced by a newer file between two batches, and its three steps of an answer."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from convnext.console import clean
from convnext.data.images import ImageError, decode
from convnext.errors import ConvNextError
from convnext.serve.batcher import Batcher, TooLate
from convnext.serve.metrics import Metrics
from convnext.serve.options import Options
from convnext.serve.threads import in_passing, model_thread
from convnext.task.inputs import Input, from_memory
from convnext.task.results import Failure, Prediction
from convnext.task.spec import Loaded, Prepared, TaskSpec
from convnext.trained import Trained, chosen_options, load


@dataclass(frozen=True)
class Version:
    """One load of a model's file; a request is answered by one of them from its first step to its last."""

    number: int
    trained: Trained
    loaded: Loaded
    precision: str
    standard: dict[str, Any]

    @property
    def spec(self) -> TaskSpec:
        """The task."""
        return self.trained.spec

    def options(self, given: dict[str, Any]) -> Any:
        """Options of a prediction, where none is given the service's; raises ConvNextError for values out of range."""
        return chosen_options(self.spec.predict_options, {**self.standard, **given}, self.spec.noun)

    def compute(self, batch: list[Prepared]) -> list[Any]:
        """Outputs of images that are alike; where the batch fails, each alone, so that one image cannot fail the others."""
        try:
            return list(self.spec.compute(self.loaded, batch, self.precision))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [output for each in batch for output in self.compute([each])]


def open_version(options: Options, name: str, number: int = 1) -> Version:
    """Load a model and run it once, on an image of noise.

    Raises:
        ConvNextError: it cannot be loaded, or its answer is not finite.
    """
    trained = load(
        options.models[name],
        device=options.device,
        precision=options.precision,
        weights=options.weights,
        image_size=options.image_size,
        trust=options.trust,
    )
    standard = options.predict_options.get(trained.task, {})
    version = Version(number, trained, *trained.deployed(), standard)
    given = version.options({})
    noise = Image.effect_noise((96, 64), 80).convert("RGB")
    for images in (1, 2):
        batch = [version.spec.prepare(version.loaded, Input("noise", lambda: noise), given) for _ in range(images)]
        for prepared, output in zip(batch, version.spec.compute(version.loaded, batch, version.precision), strict=True):
            answer = version.spec.finish(version.loaded, prepared, output)
            if isinstance(answer, Failure):
                raise ConvNextError(f"The model {name} was tried on an image of noise: {answer.error}")
    return version


@dataclass
class Served:
    """A model under a name, with its queue; decoding and finishing run in `pool`, the model in a thread of its own."""

    name: str
    options: Options
    metrics: Metrics
    pool: ThreadPoolExecutor
    version: Version
    batcher: Batcher = field(init=False)

    def __post_init__(self) -> None:
        limits = self.options.limits
        self._own = model_thread(self.name)
        self._reloading = threading.Lock()

        def observe(images: int, seconds: float) -> None:
            self.metrics.batch.labels(self.name).observe(images)
            self.metrics.phase.labels(self.name, "model").observe(seconds)

        self.batcher = Batcher(self._compute, limits.max_batch, limits.max_wait_ms / 1000, limits.queue, observe)

    async def _compute(self, items: list[tuple[Version, Prepared]]) -> list[Any]:
        version = items[0][0]
        return await asyncio.get_running_loop().run_in_executor(
            self._own, version.compute, [prepared for _, prepared in items]
        )

    async def answer(
        self, version: Version, source: Input, given: Any, deadline: float, shown: Callable[[Prediction], Any]
    ) -> Any:
        """The answer for one admitted image, turned by `shown` into what is sent; a Failure for an image that is broken.

        Raises:
            TooLate: the deadline passed; what was not begun by then is not done.
            ConvNextError: the model failed on the image. The message says no more: details go to the terminal.
        """
        loop, admitted = asyncio.get_running_loop(), True
        cancelled = threading.Event()
        observe = self.metrics.phase.labels

        def prepared() -> Prepared | Failure | None:
            began = time.monotonic()
            if cancelled.is_set() or began >= deadline:
                return None
            try:
                return version.spec.prepare(version.loaded, source, given)
            except ImageError as error:
                return Failure(source, str(error))
            finally:
                observe(self.name, "decode").observe(time.monotonic() - began)

        def finished(ready: Prepared, output: Any) -> Any:
            began = time.monotonic()
            answer = version.spec.finish(version.loaded, ready, output)
            try:
                return answer if isinstance(answer, Failure) else shown(answer)
            finally:
                observe(self.name, "finish").observe(time.monotonic() - began)

        try:
            ready = await loop.run_in_executor(self.pool, prepared)
            if ready is None:
                raise TooLate
            if isinstance(ready, Failure):
                return ready
            admitted, began = False, time.monotonic()
            output = await self.batcher.submit((version, ready), (version.number, ready.alike), deadline)
            observe(self.name, "queue and model").observe(time.monotonic() - began)
            return await loop.run_in_executor(self.pool, finished, ready, output)
        except (TooLate, asyncio.CancelledError):
            raise
        except Exception as error:  # of the model, whose messages may hold paths
            print(f"convnext: {clean(f'{self.name}: {type(error).__name__}: {error}')}", file=sys.stderr, flush=True)
            raise ConvNextError("The model failed on this image; the server's log says why.") from error
        finally:
            cancelled.set()
            if admitted:
                self.batcher.leave()

    def reload(self) -> Version:
        """Load the file again beside the model that answers, try it, and put it in that one's place.

        Raises:
            ConvNextError: it cannot be loaded, or its answers are no sound ones; the model before stays.
        """
        with self._reloading:
            self.version = in_passing(open_version, self.options, self.name, self.version.number + 1)
            self.metrics.reloads.labels(self.name).inc()
            return self.version

    def metadata(self) -> dict[str, Any]:
        """Facts of the model that clients may know; no path is in it."""
        version = self.version
        config = getattr(version.trained.module, "config", None) or {}
        return {
            "name": self.name,
            "task": version.spec.name,
            "network": config.get("name") or version.loaded.metadata.get("model"),
            "classes": list(version.loaded.names),
            "size": version.spec.size_text(version.loaded),
            "precision": version.trained.precision,
            "device": version.trained.device.type,
            "version": version.number,
            "limits": {
                key: value
                for key, value in asdict(self.options.limits).items()
                if key in ("max_body", "max_files", "max_pixels", "deadline")
            },
        }

    def close(self) -> None:
        """End the model's thread."""
        self._own.shutdown(wait=False, cancel_futures=True)


def of_bytes(content: bytes, name: str, max_pixels: int) -> Input:
    """An image that a request has sent; errors call it by `name`."""
    return Input(name, lambda: decode(content, max_pixels, repr(name)))


def of_array(values: Any, name: str) -> Input:
    """An image (H, W, 3) uint8."""
    return Input(name, lambda: from_memory(values))
