"""Replicas that serve requests in the order of their arrival: a discrete-event simulation."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from typing import Protocol

import numpy as np
import simpy
from numpy.typing import NDArray

Advance = Callable[[float], None]
"""Called now and then with the share of the simulation that is done, 0 to 1."""


@dataclass(eq=False, slots=True)
class Replica:
    """One replica's life, in seconds; what has not happened is infinite.

    Attributes:
        asked: when its start was ordered.
        ready: when it could serve.
        first_call: when it began its first request.
        stopped: when it was gone.
        busy: requests that it serves now.
        idle_since: when it last became empty.
        draining: it finishes its requests and takes no new ones.
    """

    asked: float
    ready: float = inf
    first_call: float = inf
    stopped: float = inf
    busy: int = 0
    idle_since: float = inf
    draining: bool = False


@dataclass(frozen=True, eq=False)
class Served:
    """What became of every request, in the order of their arrival.

    Attributes:
        begin: float64 ``[n]``, when its prompt began to be read; NaN if it was rejected.
        cold: bool ``[n]``, it arrived while no replica could serve.
        rejected: bool ``[n]``, it gave up waiting.
        replicas: every replica that ever was.
    """

    begin: NDArray[np.float64]
    cold: NDArray[np.bool_]
    rejected: NDArray[np.bool_]
    replicas: list[Replica] = field(default_factory=list)


class Policy(Protocol):
    """When replicas start and stop."""

    def begin(self, pool: Pool) -> None:
        """Before the first request."""

    def arrived(self, pool: Pool) -> None:
        """A request has arrived and has begun, or waits."""

    def idle(self, pool: Pool, replica: Replica) -> None:
        """``replica`` has become empty."""


class Pool:
    """A queue in front of replicas. Requests go to the oldest replica that has a free place.

    ``replicas`` are all that ever were, ``alive`` those that serve or start, oldest first.

    Args:
        env: simpy's clock.
        arrival: seconds ``[n]``, ascending.
        service: how many seconds each request takes ``[n]``, once it has begun.
        places: requests that a replica serves at a time.
        start_seconds: from ordering a replica until it can serve.
        patience: a request that has waited longer gives up.
        policy: when replicas start and stop.
        advance: told of the progress.
    """

    def __init__(
        self,
        env: simpy.Environment,
        arrival: NDArray[np.float64],
        service: NDArray[np.float64],
        places: int,
        start_seconds: float,
        patience: float,
        policy: Policy,
        advance: Advance,
    ) -> None:
        self.env, self.places, self.policy = env, places, policy
        self.replicas: list[Replica] = []
        self.alive: list[Replica] = []
        self._arrival, self._service = arrival.tolist(), service.tolist()
        self._start_seconds, self._patience, self._advance = start_seconds, patience, advance
        self._begin = np.full(len(arrival), np.nan)
        self._cold = np.zeros(len(arrival), dtype=bool)
        self._rejected = np.zeros(len(arrival), dtype=bool)
        self._queue: deque[int] = deque()
        self._free: list[int] = []  # a heap of the replicas that have a free place
        self._ready, self._in_flight, self._ended = 0, 0, 0
        self._work, self._since = 0.0, 0.0
        self._all_ended = env.event()

    def run(self, seconds: float) -> Served:
        """Simulate ``seconds``, and on until every request has ended."""
        self.policy.begin(self)
        self.env.process(self._arrivals())
        if self._arrival:
            self.env.run(until=self._all_ended)
        if self.env.now < seconds:
            self.env.run(until=seconds)
        self._advance(1.0)
        return Served(self._begin, self._cold, self._rejected, self.replicas)

    @property
    def load(self) -> int:
        """Requests that are served or wait now."""
        return self._in_flight + len(self._queue)

    def work(self) -> float:
        """The load summed over time until now, in request-seconds."""
        self._note()
        return self._work

    def order(self, count: int, started: bool = False) -> None:
        """Start ``count`` replicas; with ``started`` they can serve at once."""
        for _ in range(count):
            self.replicas.append(Replica(self.env.now))
            self.alive.append(self.replicas[-1])
            number = len(self.replicas) - 1
            if started:
                self._open(number)
            else:
                self.env.timeout(self._start_seconds).callbacks.append(partial(self._opened, number))

    def release(self, replica: Replica) -> None:
        """Let ``replica`` end what it serves and stop; one that still starts stops at once."""
        replica.draining = True
        self.alive.remove(replica)
        if not replica.busy:
            self._stop(replica)

    def _arrivals(self) -> simpy.events.ProcessGenerator:
        every = max(1, len(self._arrival) // 100)
        for request, time in enumerate(self._arrival):
            if time > self.env.now:
                yield self.env.timeout(time - self.env.now)
            self._note()
            self._cold[request] = not self._ready
            self._queue.append(request)
            self._dispatch()
            self.policy.arrived(self)
            if request % every == 0:
                self._advance(request / len(self._arrival))

    def _opened(self, number: int, _: simpy.Event) -> None:
        self._open(number)

    def _open(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.draining:
            return
        replica.ready = replica.idle_since = self.env.now
        self._ready += 1
        heapq.heappush(self._free, number)
        self._note()
        self._dispatch()
        if not replica.busy:
            self.policy.idle(self, replica)

    def _stop(self, replica: Replica) -> None:
        replica.stopped = self.env.now
        self._ready -= replica.ready < inf

    def _dispatch(self) -> None:
        """Begin what can begin; what has waited too long is rejected."""
        while self._queue:
            request = self._queue[0]
            if self._arrival[request] + self._patience < self.env.now:
                self._rejected[self._queue.popleft()] = True
                self._end()
            elif (number := self._oldest_free()) is None:
                return
            else:
                self._serve(self._queue.popleft(), number)

    def _oldest_free(self) -> int | None:
        while self._free and self.replicas[self._free[0]].draining:
            heapq.heappop(self._free)
        return self._free[0] if self._free else None

    def _serve(self, request: int, number: int) -> None:
        replica, now = self.replicas[number], self.env.now
        replica.busy += 1
        replica.first_call = min(replica.first_call, now)
        if replica.busy == self.places:
            heapq.heappop(self._free)
        self._begin[request] = now
        self._in_flight += 1
        self.env.timeout(self._service[request]).callbacks.append(partial(self._finish, number))

    def _finish(self, number: int, _: simpy.Event) -> None:
        self._note()
        replica = self.replicas[number]
        if replica.busy == self.places and not replica.draining:
            heapq.heappush(self._free, number)
        replica.busy -= 1
        self._in_flight -= 1
        self._end()
        self._dispatch()
        if not replica.busy:
            replica.idle_since = self.env.now
            if replica.draining:
                self._stop(replica)
            else:
                self.policy.idle(self, replica)

    def _end(self) -> None:
        self._ended += 1
        if self._ended == len(self._arrival):
            self._all_ended.succeed()

    def _note(self) -> None:
        """Bring the sum of the load up to now, before the load changes."""
        self._work += self.load * (self.env.now - self._since)
        self._since = self.env.now


def wanted(load: float, places: float) -> int:
    """Replicas that ``load`` requests fill, if each takes ``places``."""
    return ceil(load / places - 1e-9)
