"""How much may be requested of the port at once, and how fast: callers are slowed down before they are refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from moretta.server.home import Limits
from moretta.server.port.refusals import Refusal

Sleep = Callable[[float], Awaitable[None]]
_GUEST_CALLS = 4
"""Open calls of one join string: it is used with one call after the other."""
_DAY_SECONDS = 86_400


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
        """Take units for as long as the block lasts; raises Refusal where there are not so many, or none in time."""
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


@dataclass
class TokenBucket:
    """So many units a second in the long run, and so many at once (`burst`) after a pause."""

    per_second: float
    burst: int
    what: str = "calls"
    _: KW_ONLY
    monotonic: Callable[[], float] = time.monotonic
    sleep: Sleep = asyncio.sleep

    def __post_init__(self) -> None:
        self._tokens, self._at = float(self.burst), self.monotonic()

    async def step(self, patience_seconds: float, units: int = 1) -> None:
        """Wait for so many units, or a whole burst; raises Refusal where that takes over `patience_seconds`."""
        now = self.monotonic()
        tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        wait = max(0.0, (min(units, self.burst) - tokens) / self.per_second)
        self._at = now
        if wait > patience_seconds:
            self._tokens = tokens
            text = f"more than {self.per_second:g} {self.what} a second: slow down"
            raise Refusal("RESOURCE_EXHAUSTED", "too-fast", text)
        self._tokens = tokens - units
        if wait:
            await self.sleep(wait)


class _CallerLimits(NamedTuple):
    pace: TokenBucket
    day: TokenBucket
    bytes_of_day: TokenBucket
    calls: UnitPool
    bytes: UnitPool


class Admission:
    """The limits of each caller and of all together.

    State is kept per name, and names come from the registry alone: strangers cannot make it grow. An eighth of the
    places for open calls is for callers that have none, so that no few callers can shut the others out.
    """

    def __init__(
        self, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._limits, self._monotonic, self._sleep = limits, monotonic, sleep
        self._all = UnitPool(limits.bytes_in_flight, "bytes in flight")
        self._open: Counter[str] = Counter()
        self._of: dict[str, _CallerLimits] = {}

    @property
    def bytes_in_flight(self) -> int:
        """Bytes in flight of all callers together."""
        return self._all.taken

    @property
    def calls_open(self) -> int:
        """Open calls of all callers together, those that wait included."""
        return self._open.total()

    @asynccontextmanager
    async def enter(self, name: str, *, guest: bool = False) -> AsyncIterator[None]:
        """One call of this caller: waits until its pace and its calls in flight allow it, or raises Refusal.

        Each site and each join string has limits of its own. A guest has only a join string, which takes a few calls to
        use.
        """
        with self.place(name, _GUEST_CALLS if guest else 2 * self._limits.site_calls_in_flight):
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

    @contextmanager
    def place(self, name: str, own: int) -> Iterator[None]:
        """One open call, of the `own` that a caller may have, counted before anything waits; raises Refusal at once."""
        places = self._limits.calls_open
        if self._open[name] >= own:
            raise Refusal("RESOURCE_EXHAUSTED", "too-many-calls", f"{own} calls of this caller are open: wait for them")
        if self.calls_open >= places - (places // 8 if self._open[name] else 0):
            raise Refusal("RESOURCE_EXHAUSTED", "no-room", "the server is busy with other callers: try again later")
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]

    def _own(self, name: str) -> _CallerLimits:
        if name not in self._of:
            limits, clock = self._limits, self._monotonic
            calls, size = limits.site_calls_per_day, limits.site_bytes_per_day
            self._of[name] = _CallerLimits(
                pace=TokenBucket(limits.calls_per_second, limits.burst_calls, monotonic=clock, sleep=self._sleep),
                day=TokenBucket(calls / _DAY_SECONDS, calls, monotonic=clock),
                bytes_of_day=TokenBucket(size / _DAY_SECONDS, size, "bytes", monotonic=clock),
                calls=UnitPool(limits.site_calls_in_flight, "calls at once"),
                bytes=UnitPool(limits.site_bytes_in_flight, "bytes in flight"),
            )
        return self._of[name]
