from __future__ import annotations

import asyncio

import pytest

from qat.serve.gateway.errors import ApiError
from qat.serve.gateway.limits import Bucket, Slots, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_refills_evenly() -> None:
    clock = Clock()
    bucket = Bucket("tokens", 60, 60.0, clock)
    bucket.take(50)
    assert bucket.headers() == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "50s",
    }
    clock.now += 5.5
    assert bucket.headers()["x-ratelimit-remaining-tokens"] == "15"
    clock.now += 1000
    assert bucket.headers()["x-ratelimit-reset-tokens"] == "0s"


def test_a_bucket_in_debt_says_how_long() -> None:
    clock = Clock()
    bucket = Bucket("tokens", 60, 60.0, clock)
    bucket.check()
    bucket.take(80)
    with pytest.raises(ApiError) as caught:
        bucket.check()
    assert (
        caught.value.status == 429 and caught.value.headers == {"retry-after": "21"} and caught.value.kind == "tokens"
    )
    clock.now += 21
    bucket.check()


def test_no_limit() -> None:
    bucket = Bucket("tokens", None, 60.0, Clock())
    bucket.take(10**9)
    bucket.check()
    assert bucket.headers() == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (7.66, "7.66s"), (59.999, "1m0s"), (179.56, "2m59.56s"), (3600, "1h0m0s"), (86399.5, "23h59m59.5s")],
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


def test_slots_are_given_in_turn() -> None:
    clock, order = Clock(), []

    async def use(slots: Slots, name: str, leave: asyncio.Event) -> None:
        async with slots.one() as waited:
            order.append((name, waited))
            await leave.wait()
            clock.now += 8

    async def scenario() -> None:
        slots = Slots(1, 2, clock)
        leave = asyncio.Event()
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(use(slots, name, leave)))
            await asyncio.sleep(0)
        assert (slots.running, slots.waiting) == (1, 2)
        with pytest.raises(ApiError, match="1 requests are running and 2 waiting") as caught:
            async with slots.one():
                pass
        assert caught.value.status == 429 and caught.value.headers == {"retry-after": "1"}
        with pytest.raises(ApiError) as flex:
            async with slots.one(patient=False):
                pass
        assert flex.value.status == 498
        tasks[1].cancel()  # leaves the queue
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [("a", 0), ("c", 8)] and (slots.running, slots.waiting) == (0, 0)
        async with slots.one(patient=False):
            leave.clear()
            blocked = asyncio.create_task(use(slots, "d", leave))
            also = asyncio.create_task(use(slots, "e", leave))
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as later:  # 8 s each, three in front
                async with slots.one():
                    pass
            assert later.value.headers == {"retry-after": "24"}
            blocked.cancel()
            also.cancel()

    asyncio.run(scenario())
