"""How much may be requested of the port at once, and how fast: callers are slowed down before they are refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from moretta.server.home import Limits
from moretta.server.port.refusals import Refusal

Sleep = Callable[[float], Awaitable[None]]
_GUEST_CALLS = 4
"""Open calls of one join string: it is used with one call after the other."""


class UnitPool:
    """So many units at once, first come first served. `what` names them in a refusal."""

    def __init__(self, capacity: int, what: str) -> None:
        self.capacity, self._what = capacity, what
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        """Units in use."""
        return self.capacity - self._free

    @asynccontextmanager
    async def hold(self, units: int, patience_seconds: float) -> AsyncIterator[None]:
        """Take units for as long as the block lasts; waits for them if need be.

        Raises:
            Refusal: there are not so many, or none came free in time.
        """
        await self._take(units, patience_seconds)
        try:
            yield
        finally:
            self._free += units
            self._hand_out()

    async def _take(self, units: int, patience_seconds: float) -> None:
        if units > self.capacity:
            raise Refusal("RESOURCE_EXHAUSTED", "too-large", f"{units} {self._what}; at most {self.capacity}")
        if not self._waiting and units <= self._free:
            self._free -= units
            return
        future = asyncio.get_running_loop().create_future()
        place = (units, future)
        self._waiting.append(place)
        try:
            async with asyncio.timeout(patience_seconds):  # 3.11's `wait_for` can swallow a cancellation
                await asyncio.shield(future)
        except (TimeoutError, asyncio.CancelledError) as error:
            if future.done():  # handed out in the same moment
                self._free += units
            else:
                self._waiting.remove(place)
            self._hand_out()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Refusal("RESOURCE_EXHAUSTED", "no-room", f"too many {self._what}: try again later") from error

    def _hand_out(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            units, future = self._waiting.popleft()
            self._free -= units
            future.set_result(None)


class TokenBucket:
    """So many units a second in the long run, and so many at once (`burst`) after a pause."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        what: str = "calls",
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._rate, self._burst, self._what = per_second, float(burst), what
        self._monotonic, self._sleep = monotonic, sleep
        self._tokens, self._at = float(burst), monotonic()

    @classmethod
    def of_day(cls, units: int, what: str, monotonic: Callable[[], float]) -> TokenBucket:
        """So many units a day, all of them at once if need be."""
        return cls(units / 86_400, units, what, monotonic=monotonic)

    async def step(self, patience_seconds: float, units: int = 1) -> None:
        """Wait for the turn of so many units; more than a burst wait for a whole one.

        Raises:
            Refusal: it would have to wait longer than `patience_seconds`.
        """
        now = self._monotonic()
        tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        wait = max(0.0, (min(units, self._burst) - tokens) / self._rate)
        self._at = now
        if wait > patience_seconds:
            self._tokens = tokens
            raise Refusal(
                "RESOURCE_EXHAUSTED", "too-fast", f"more than {self._rate:g} {self._what} a second: slow down"
            )
        self._tokens = tokens - units
        if wait:
            await self._sleep(wait)


class Places:
    """Open calls, counted before anything waits: a caller that has too many is refused at once.

    The last `kept` of `most` places are for callers that have none, so that no few callers can shut the others out.
    """

    def __init__(self, most: int, kept: int) -> None:
        self._most, self._kept = most, kept
        self._of: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """By all callers together."""
        return self._of.total()

    @contextmanager
    def hold(self, name: str, own: int) -> Iterator[None]:
        """One place of a caller, of the `own` places that it may have, for as long as the block lasts.

        Raises:
            Refusal: there is none.
        """
        if self._of[name] >= own:
            raise Refusal("RESOURCE_EXHAUSTED", "too-many-calls", f"{own} calls of this caller are open: wait for them")
        if self.taken >= self._most - (self._kept if self._of[name] else 0):
            raise Refusal("RESOURCE_EXHAUSTED", "no-room", "the server is busy with other callers: try again later")
        self._of[name] += 1
        try:
            yield
        finally:
            self._of[name] -= 1
            if not self._of[name]:
                del self._of[name]


@dataclass(frozen=True, slots=True)
class _CallerLimits:
    pace: TokenBucket
    day: TokenBucket
    bytes_of_day: TokenBucket
    calls: UnitPool
    bytes: UnitPool


class Admission:
    """The limits of each caller and of all together.

    State is kept per name, and names come from the registry alone: strangers cannot make it grow.
    """

    def __init__(
        self, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._limits, self._monotonic, self._sleep = limits, monotonic, sleep
        self._all = UnitPool(limits.bytes_in_flight, "bytes in flight")
        self._places = Places(limits.calls_open, limits.calls_open // 8)
        self._of: dict[str, _CallerLimits] = {}

    @property
    def bytes_in_flight(self) -> int:
        """Of all callers together."""
        return self._all.taken

    @property
    def calls_open(self) -> int:
        """Of all callers together, those that wait included."""
        return self._places.taken

    @asynccontextmanager
    async def enter(self, name: str, *, guest: bool = False) -> AsyncIterator[None]:
        """One call of this caller: waits until its pace and its calls in flight allow it.

        Args:
            name: of the caller. Each site and each join string has limits of its own.
            guest: it has only a join string, which takes a few calls to use.

        Raises:
            Refusal: they do not in time, or too many of its calls are open.
        """
        with self._places.hold(name, _GUEST_CALLS if guest else 2 * self._limits.site_calls_in_flight):
            own = self._own(name)
            await own.day.step(0.0)
            await own.pace.step(self._limits.patience_seconds)
            async with own.calls.hold(1, self._limits.patience_seconds):
                yield

    async def count(self, name: str, size: int) -> None:
        """Count the bytes that a caller has sent; raises Refusal if they are more than it may send in a day."""
        await self._own(name).bytes_of_day.step(0.0, size)

    @asynccontextmanager
    async def room(self, name: str, size: int) -> AsyncIterator[None]:
        """Room in memory for so many bytes of this caller; raises Refusal if there is none in time."""
        patience = self._limits.patience_seconds
        async with self._own(name).bytes.hold(size, patience), self._all.hold(size, patience):
            yield

    def _own(self, name: str) -> _CallerLimits:
        if name not in self._of:
            limits, monotonic = self._limits, self._monotonic
            self._of[name] = _CallerLimits(
                pace=TokenBucket(limits.calls_per_second, limits.burst_calls, monotonic=monotonic, sleep=self._sleep),
                day=TokenBucket.of_day(limits.site_calls_per_day, "calls", monotonic),
                bytes_of_day=TokenBucket.of_day(limits.site_bytes_per_day, "bytes", monotonic),
                calls=UnitPool(limits.site_calls_in_flight, "calls at once"),
                bytes=UnitPool(limits.site_bytes_in_flight, "bytes in flight"),
            )
        return self._of[name]
