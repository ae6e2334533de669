from __future__ import annotations

from aws_world import Ticks

from qat.deploy.aws.waiting import Clock, Pauses


def test_pauses_grow_to_the_longest_and_end_with_the_time() -> None:
    ticks = Ticks()
    for pause in Pauses(first=1.0, longest=5.0, total=20.0).of(ticks.clock):
        ticks.clock.sleep(pause)
    assert ticks.slept == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_jitter_takes_up_to_half() -> None:
    ticks = Ticks()
    clock = Clock(ticks.clock.now, ticks.clock.sleep, chance=lambda: 0.0)
    assert next(Pauses(first=8.0, longest=9.0, total=60.0).of(clock)) == 4.0
