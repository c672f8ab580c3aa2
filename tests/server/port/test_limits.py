from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.server.port.limits import TokenBucket, UnitPool
from moretta.server.port.refusals import Refusal


def run(work: Awaitable[Any]) -> Any:
    async def wrapped() -> Any:
        return await work

    return asyncio.run(wrapped())


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 10))
def test_a_budget_is_never_overdrawn_and_all_of_it_comes_back(sizes: list[int], capacity: int) -> None:
    async def scenario() -> None:
        budget, most = UnitPool(capacity, "units"), [0]

        async def user(size: int) -> None:
            try:
                async with budget.hold(size, 5.0):
                    most[0] = max(most[0], budget.taken)
                    await asyncio.sleep(0)
            except Refusal as refusal:
                assert refusal.reason == "too-large"
                assert size > capacity

        await asyncio.gather(*map(user, sizes))
        assert most[0] <= capacity
        assert budget.taken == 0

    run(scenario())


def test_who_waits_is_served_in_order_and_a_large_one_is_not_passed_by() -> None:
    async def scenario() -> list[str]:
        budget, order = UnitPool(3, "units"), []

        async def user(name: str, size: int) -> None:
            async with budget.hold(size, 5.0):
                order.append(name)
                await asyncio.sleep(0.001)

        await asyncio.gather(user("first", 2), user("large", 3), user("small", 1))
        return order

    assert run(scenario()) == ["first", "large", "small"]


def test_no_room_in_time_is_a_refusal_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        budget = UnitPool(1, "units")
        async with budget.hold(1, 1.0):
            with pytest.raises(Refusal) as refused:
                async with budget.hold(1, 0.01):
                    pass
            assert (refused.value.kind, refused.value.reason) == ("RESOURCE_EXHAUSTED", "no-room")
        async with budget.hold(1, 0.01):
            assert budget.taken == 1

    run(scenario())


def test_a_caller_that_gives_up_waiting_gives_its_place_to_the_next() -> None:
    async def scenario() -> None:
        budget = UnitPool(2, "units")

        async def hold(size: int) -> None:
            async with budget.hold(size, 5.0):
                pass

        async with budget.hold(1, 1.0):
            waiting, next_one = asyncio.create_task(hold(2)), asyncio.create_task(hold(1))
            await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.wait_for(next_one, 1.0)
        assert budget.taken == 0

    run(scenario())


class FakeTime:
    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_burst_passes_at_once_and_then_the_pace_holds() -> None:
    time = FakeTime()
    pace = TokenBucket(10.0, 3, monotonic=time.monotonic, sleep=time.sleep)
    for _ in range(6):
        run(pace.step(1.0))
    assert time.slept == pytest.approx([0.1, 0.1, 0.1])
    time.now += 100.0
    for _ in range(3):
        run(pace.step(1.0))
    assert len(time.slept) == 3


def test_who_would_wait_too_long_is_refused_and_does_not_make_others_wait_longer() -> None:
    time = FakeTime()

    async def no_sleep(seconds: float) -> None:
        time.slept.append(seconds)

    pace = TokenBucket(1.0, 1, monotonic=time.monotonic, sleep=no_sleep)
    run(pace.step(2.0))
    run(pace.step(2.0))
    run(pace.step(2.0))
    for _ in range(5):
        with pytest.raises(Refusal) as refused:
            run(pace.step(2.0))
        assert (refused.value.kind, refused.value.reason) == ("RESOURCE_EXHAUSTED", "too-fast")
    time.now += 1.0
    run(pace.step(2.0))
