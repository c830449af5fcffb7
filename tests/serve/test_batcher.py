"""The queue in front of a model, with a clock and a model that the tests move by hand."""

import asyncio

import pytest

from convnext.serve.batcher import Batcher, QueueFull, TooLate


class Model:
    """Answers with the negative of each number, when it is let; remembers its batches."""

    def __init__(self, free: bool = True):
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.time = 0.0
        if free:
            self.free.set()

    async def __call__(self, items):
        self.batches.append(items)
        await self.free.wait()
        return [ValueError("broken") if item == 13 else -item for item in items]

    def batcher(self, max_batch=4, max_wait=0.0, capacity=8):
        made = Batcher(self, max_batch, max_wait, capacity, clock=lambda: self.time)
        made.start()
        return made


async def ask(batcher: Batcher, *items: int, alike="a", deadline=100.0) -> list[asyncio.Task]:
    """Requests for items, which wait in the queue when this returns."""
    tasks = []
    for item in items:
        batcher.admit()
        tasks.append(asyncio.create_task(batcher.submit(item, alike, deadline)))
    await settle()
    return tasks


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test) -> None:
    async def within():
        async with asyncio.timeout(10):
            await test()

    asyncio.run(within())


def test_what_waits_while_the_model_works_makes_the_next_batch():
    async def test():
        model = Model(free=False)
        batcher = model.batcher()
        first = await ask(batcher, 1)
        others = await ask(batcher, 2, 3, 4, 5, 6)
        model.free.set()
        assert await asyncio.gather(*first, *others) == [-1, -2, -3, -4, -5, -6]
        assert model.batches == [[1], [2, 3, 4, 5], [6]]
        assert batcher.places == 0

    run(test)


def test_only_like_shapes_share_a_batch():
    async def test():
        model = Model(free=False)
        batcher = model.batcher()
        tasks = await ask(batcher, 1)
        tasks += await ask(batcher, 2, alike="tall")
        tasks += await ask(batcher, 3, alike="wide")
        tasks += await ask(batcher, 4, alike="tall")
        model.free.set()
        await asyncio.gather(*tasks)
        assert model.batches == [[1], [2, 4], [3]]

    run(test)


def test_the_queue_is_bounded_and_says_how_long_it_takes():
    async def test():
        model = Model(free=False)
        batcher = model.batcher(capacity=3)
        tasks = await ask(batcher, 1)
        tasks += await ask(batcher, 2, 3, 4)
        with pytest.raises(QueueFull) as full:
            batcher.admit()
        assert full.value.retry_after > 0
        model.free.set()
        await asyncio.gather(*tasks)
        batcher.admit(3)
        with pytest.raises(QueueFull):
            batcher.admit()
        for _ in range(3):
            batcher.leave()
        assert batcher.places == 0

    run(test)


def test_a_request_without_place_for_all_its_images_takes_none():
    async def test():
        batcher = Model().batcher(capacity=3)
        batcher.admit(2)
        with pytest.raises(QueueFull):
            batcher.admit(2)
        assert batcher.places == 2

    run(test)


def test_after_its_deadline_an_image_is_not_computed():
    async def test():
        model = Model(free=False)
        batcher = model.batcher()
        tasks = await ask(batcher, 1)
        late = await ask(batcher, 2, deadline=5)
        tasks += await ask(batcher, 3, deadline=50)
        model.time = 10.0
        model.free.set()
        await asyncio.gather(*tasks)
        with pytest.raises(TooLate):
            await late[0]
        assert model.batches == [[1], [3]]
        assert batcher.places == 0

    run(test)


def test_a_cancelled_image_is_not_computed_and_frees_its_place():
    async def test():
        model = Model(free=False)
        batcher = model.batcher()
        running, gone = await ask(batcher, 1), await ask(batcher, 2, 3)
        gone[0].cancel()
        running[0].cancel()  # in the model: nothing waits for its answer
        await settle()
        assert batcher.places == 1
        model.free.set()
        assert await gone[1] == -3
        assert model.batches == [[1], [3]]
        assert batcher.places == 0

    run(test)


def test_one_broken_item_fails_alone_and_a_broken_batch_does_not_end_the_queue():
    async def test():
        model = Model(free=False)
        batcher = model.batcher()
        tasks = await ask(batcher, 1)
        tasks += await ask(batcher, 12, 13, 14)
        model.free.set()
        assert await tasks[1] == -12
        assert await tasks[3] == -14
        with pytest.raises(ValueError, match="broken"):
            await tasks[2]

        async def failing(items):
            raise RuntimeError("no memory")

        batcher.compute = failing
        (lost,) = await ask(batcher, 5)
        with pytest.raises(RuntimeError, match="no memory"):
            await lost
        batcher.compute = model
        (found,) = await ask(batcher, 6)
        assert await found == -6

    run(test)


def test_the_model_waits_for_images_that_are_being_decoded_and_for_nothing_else():
    async def test():
        model = Model()
        batcher = model.batcher(max_wait=60.0)
        (alone,) = await ask(batcher, 1)
        assert await alone == -1  # nobody else is admitted, so there was no wait

        batcher.admit()  # an image that is being decoded
        (one,) = await ask(batcher, 2)
        assert model.batches == [[1]]
        other = asyncio.create_task(batcher.submit(3, "a", 100.0))
        assert await asyncio.gather(one, other) == [-2, -3]

        batcher.admit()
        (last,) = await ask(batcher, 4)
        batcher.leave()  # it was broken
        assert await last == -4
        assert model.batches == [[1], [2, 3], [4]]

    run(test)


def test_the_wait_for_decoding_ends():
    async def test():
        model = Model()
        batcher = Batcher(model, 4, 0.01, 8)
        batcher.start()
        batcher.admit()  # an image whose decoding takes for ever
        batcher.admit()
        assert await batcher.submit(1, "a", float("inf")) == -1

    run(test)
