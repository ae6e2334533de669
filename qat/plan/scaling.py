"""When replicas start and stop: on demand as a serverless host does, or towards a target as an autoscaler does."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import simpy

from qat.plan.pool import Pool, Replica, wanted


@dataclass(frozen=True)
class OnDemand:
    """From zero: a replica starts when more requests are there than places, and stops when it has been idle.

    Args:
        maximum: most replicas at a time.
        idle_seconds: a replica that served nothing for so long stops.
    """

    maximum: float
    idle_seconds: float

    def begin(self, pool: Pool) -> None:
        pass

    def arrived(self, pool: Pool) -> None:
        if pool.load > (alive := len(pool.alive)) * pool.places:
            pool.order(int(min(wanted(pool.load, pool.places), self.maximum)) - alive)

    def idle(self, pool: Pool, replica: Replica) -> None:
        since = replica.idle_since

        def stop(_: simpy.Event) -> None:
            if not replica.busy and replica.idle_since == since:
                pool.release(replica)

        pool.env.timeout(self.idle_seconds).callbacks.append(stop)


@dataclass(frozen=True)
class TowardsTarget:
    """Keep the mean load at a share of the places, looking every ``every`` seconds at the mean since the last look.

    Replicas stop, newest first, when that would have been right at every look of the last ``patience`` seconds (the
    stabilization window of Kubernetes' horizontal autoscaler).

    Args:
        initial: replicas that run when the simulation begins, within the two bounds.
        minimum: replicas that always run.
        maximum: most replicas at a time.
        target: share of the places that should be taken, above 0 to 1.
        every: seconds between two looks.
        patience: seconds for which fewer replicas must have been enough.
    """

    initial: int
    minimum: int
    maximum: float
    target: float
    every: float
    patience: float

    def begin(self, pool: Pool) -> None:
        pool.order(self._within(self.initial), started=True)
        if self.maximum > self.minimum:
            pool.env.process(self._watch(pool))

    def _within(self, replicas: int) -> int:
        return int(min(max(replicas, self.minimum), self.maximum))

    def arrived(self, pool: Pool) -> None:
        pass

    def idle(self, pool: Pool, replica: Replica) -> None:
        pass

    def _watch(self, pool: Pool) -> simpy.events.ProcessGenerator:
        looks: deque[int] = deque(maxlen=1 + int(self.patience // self.every))
        before = 0.0
        while True:
            yield pool.env.timeout(self.every)
            work = pool.work()
            mean, before = (work - before) / self.every, work
            looks.append(self._within(wanted(mean, pool.places * self.target)))
            pool.order(max(0, looks[-1] - len(pool.alive)))
            for replica in pool.alive[max(looks) :][::-1]:
                pool.release(replica)
