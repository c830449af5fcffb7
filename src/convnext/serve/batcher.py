"""Puts images of many requests into batches: a bounded queue, like shapes together, deadlines, cancelled images left out.

An image has a place from its admission until the model takes it. The model never waits for requests that may not come,
only, and briefly, for admitted images that are still being decoded: an image alone is answered as fast as without batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any


class QueueFull(Exception):
    """No place is free; `retry_after` is the time in seconds that those before will take."""

    def __init__(self, retry_after: float):
        super().__init__(retry_after)
        self.retry_after = retry_after


class TooLate(Exception):
    """The deadline passed before the model took the image."""


@dataclass(eq=False)
class Waiting:
    """One image that is ready: `alike` says with which others it can share a batch, `output` receives the answer."""

    item: Any
    alike: Hashable
    deadline: float
    output: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """A queue of images in front of one model.

    Args:
        compute: takes a list of items that are alike and gives an output for each; an output that is an exception is
            raised in the request of its item.
        max_batch: images in one call; max_wait: seconds that the model waits for images that are being decoded.
        capacity: images that may be waiting, being decoded included.
        observe: receives (images of the batch, seconds it took).
        clock: seconds, those of the deadlines.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Awaitable[Sequence[Any]]],
        max_batch: int,
        max_wait: float,
        capacity: int,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.compute, self.max_batch, self.max_wait, self.capacity = compute, max_batch, max_wait, capacity
        self.observe, self.clock = observe, clock
        self.places = 0  # taken: images admitted that the model has not taken yet
        self.ready: list[Waiting] = []
        self._changed = asyncio.Event()
        self.seconds_per_image = 0.05  # a moving average, for Retry-After
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to take images; called in the event loop."""
        self._changed = asyncio.Event()  # of this loop
        self._task = self._task or asyncio.create_task(self._run(), name="batches")

    async def stop(self) -> None:
        """Take no more images; those that wait get no answer."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def admit(self, images: int = 1) -> None:
        """Take places for images, which `submit` or `leave` gives back.

        Raises:
            QueueFull: so many are not free; none is taken.
        """
        if self.places + images > self.capacity:
            raise QueueFull(self.places * self.seconds_per_image)
        self.places += images

    def leave(self) -> None:
        """Give back the place of an image that will not be submitted, because it is broken or nobody waits for it."""
        self.places -= 1
        self._changed.set()

    async def submit(self, item: Any, alike: Hashable, deadline: float) -> Any:
        """The output for an admitted image. If the caller is cancelled before the model takes the image, it is not computed.

        Raises:
            TooLate: the deadline passed first.
        """
        waiting = Waiting(item, alike, deadline)
        self.ready.append(waiting)
        self._changed.set()
        try:
            return await waiting.output
        except asyncio.CancelledError:
            if waiting in self.ready:
                self._take([waiting])
            raise

    def _take(self, images: Sequence[Waiting]) -> None:
        """Free the places of images that wait no longer."""
        for each in images:
            self.ready.remove(each)
            self.places -= 1
        self._changed.set()

    async def _run(self) -> None:
        while True:
            await self._next_ready()
            batch = await self._gather()
            if batch:
                await self._answer(batch)

    async def _next_ready(self) -> None:
        while not self.ready:
            self._changed.clear()
            await self._changed.wait()

    def _drop_late(self) -> None:
        now = self.clock()
        for each in [each for each in self.ready if each.deadline <= now]:
            self._take([each])
            if not each.output.done():
                each.output.set_exception(TooLate())

    def _alike(self) -> list[Waiting]:
        """The first image, and those that are like it, up to a batch."""
        first = self.ready[0]
        return [each for each in self.ready if each.alike == first.alike][: self.max_batch]

    async def _gather(self) -> list[Waiting]:
        """The next batch: full, or all that can be had now, or after waiting for what is being decoded."""
        until = self.clock() + self.max_wait
        while True:
            self._drop_late()
            if not self.ready:
                return []
            batch = self._alike()
            left = until - self.clock()
            being_decoded = self.places - len(self.ready)
            if len(batch) == self.max_batch or not being_decoded or left <= 0:
                self._take(batch)
                return batch
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue

    async def _answer(self, batch: list[Waiting]) -> None:
        began = self.clock()
        try:
            outputs: Sequence[Any] = await self.compute([each.item for each in batch])
        except Exception as error:
            outputs = [error] * len(batch)
        seconds = self.clock() - began
        self.seconds_per_image += 0.1 * (seconds / len(batch) - self.seconds_per_image)
        self.observe(len(batch), seconds)
        for each, output in zip(batch, outputs, strict=True):
            if each.output.done():
                continue
            if isinstance(output, BaseException):
                each.output.set_exception(output)
            else:
                each.output.set_result(output)
