"""The state of a serving process: its models, whether it is ready, and what it is working on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from convnext import tasks
from convnext.errors import ConvNextError, nearest
from convnext.serve.batcher import QueueFull, TooLate
from convnext.serve.body import Bodies, Disconnected, Refused
from convnext.serve.metrics import Metrics
from convnext.serve.model import Served, Version, open_version
from convnext.serve.options import Options
from convnext.serve.threads import image_threads, in_passing
from convnext.task.inputs import Input
from convnext.task.results import Prediction


class Service:
    """Models by name, and the work on them.

    Attributes:
        active: requests that have begun and are not answered.
        draining: True once the process was asked to end: it accepts no more.
        reload_elsewhere: reloads all workers, where there are several; None: this process is alone.
    """

    def __init__(self, options: Options):
        self.options, self.limits = options, options.limits
        self.metrics, self.bodies = Metrics(), Bodies()
        self.active, self.draining = 0, False
        self.reload_elsewhere: Callable[[], None] | None = None
        self.pool = image_threads()
        self.models = {
            name: Served(name, options, self.metrics, self.pool, in_passing(open_version, options, name))
            for name in options.models
        }
        check_options(options, self.models.values())
        for name, served in self.models.items():
            self.metrics.waiting.labels(name).set_function(lambda batcher=served.batcher: batcher.places)

    def start(self) -> None:
        """Begin to answer; called in the event loop."""
        for served in self.models.values():
            served.batcher.start()

    async def stop(self) -> None:
        """End the queues and threads."""
        for served in self.models.values():
            await served.batcher.stop()
            served.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """True while requests are accepted."""
        return not self.draining

    def model(self, name: str | None) -> Served:
        """The model of that name, or the first.

        Raises:
            Refused: there is none (404).
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(
                404, f"There is no model {name!r}.{nearest(name, self.models)} There are: {', '.join(self.models)}."
            )
        return self.models[name]

    def accept(self, served: Served) -> None:
        """Raises Refused (503) where a new request cannot be answered: full, or about to end."""
        if self.draining:
            raise Refused(
                503, "The server is about to end; ask another one.", {"Retry-After": "1", "Connection": "close"}
            )
        if served.batcher.places >= self.limits.queue:
            raise full(served.batcher.places * served.batcher.seconds_per_image)

    def deadline(self, asked: str | None) -> float:
        """When a request has to be answered, in seconds of the monotonic clock; `asked`: seconds that the client gives.

        Raises:
            Refused: it is no such number (400).
        """
        seconds = self.limits.deadline
        if asked is not None:
            try:
                wanted = float(asked)
            except ValueError:
                wanted = -1.0
            if not 0 < wanted < float("inf"):
                raise Refused(400, "X-Deadline-Seconds must be a number above 0.")
            seconds = min(seconds, wanted)
        return time.monotonic() + seconds

    async def answers(
        self,
        served: Served,
        version: Version,
        images: Sequence[Input],
        given: Any,
        deadline: float,
        shown: Callable[[Prediction], Any],
        gone: Callable[[], Any],
    ) -> list[Any]:
        """The answers of `Served.answer` for the images of one request.

        Args:
            gone: a coroutine function that returns when the client has left.

        Raises:
            Refused: the queue is full (503), the deadline passed (504), or the model failed (500).
            Disconnected: the client left; what was not begun is not computed.
        """
        try:
            served.batcher.admit(len(images))
        except QueueFull as error:
            raise full(error.retry_after) from None
        work = asyncio.gather(*(served.answer(version, image, given, deadline, shown) for image in images))
        watch = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, watch}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if watch.done():
                raise Disconnected
            raise TooLate
        except TooLate:
            raise Refused(504, "The deadline passed before the answer was there.") from None
        except ConvNextError as error:
            raise Refused(500, str(error)) from None
        finally:
            watch.cancel()
            work.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)


def full(seconds: float) -> Refused:
    """The answer where the queue is full; `seconds` that those before will take."""
    return Refused(503, "The queue is full; try again.", {"Retry-After": str(max(round(seconds), 1))})


def check_options(options: Options, models: Iterable[Served]) -> None:
    """Raises ConvNextError for an option that no model has."""
    served = {each.version.spec.name for each in models}
    for spec in tasks.specs():
        standard = vars(spec.predict_options())
        for name, value in options.predict_options.get(spec.name, {}).items():
            if spec.name not in served and value != standard[name]:
                raise ConvNextError(
                    f"--{name.replace('_', '-')} is for {spec.noun}s, and no model here is one. Leave it out."
                )
