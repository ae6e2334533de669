from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.schedule import PrecisionSchedule, PrecisionState
from qat.schedule.phases.block_reconstruction import BlockReconstruction
from qat.schedule.phases.fake_quant import FakeQuant


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_everything_is_on_and_one_block_is_trained(progress: float) -> None:
    assert BlockReconstruction().state(progress) == PrecisionState("block_reconstruction", reconstruct=progress)


def schedule() -> PrecisionSchedule:
    phases = {"a": FakeQuant(steps=2), "blocks": BlockReconstruction(steps=7), "b": FakeQuant(steps=3)}
    return PrecisionSchedule(phases, 12)


def test_each_block_has_its_part_and_a_course_of_its_own() -> None:
    """Seven steps over three blocks are 2, 2 and 3; the other five steps of the run are one course."""
    active = [schedule().state_at(step).active_block(3) for step in range(12)]
    assert active == [None, None, 0, 0, 1, 1, 2, 2, 2, None, None, None]
    courses = [schedule().course(step, 3) for step in range(13)]
    blocks = [(0, 2), (1, 2), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert courses == [(0, 5), (1, 5), *blocks, (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("steps", [*range(1, 40), 1000])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 7, 12])
def test_the_course_begins_where_the_block_does(steps: int, num_blocks: int) -> None:
    """Two ways to say which block it is: by the state's progress, and by whole numbers."""
    if steps < num_blocks:
        return
    made = PrecisionSchedule({"blocks": BlockReconstruction()}, steps)
    seen = [made.state_at(step).active_block(num_blocks) for step in range(steps)]
    assert sorted(set(seen)) == list(range(num_blocks))
    assert seen == sorted(seen)
    for step in range(steps):
        local, length = made.course(step, num_blocks)
        assert length == seen.count(seen[step])
        assert local == seen[:step].count(seen[step])


def test_fewer_steps_than_blocks_are_refused() -> None:
    schedule().check_blocks(7)
    with pytest.raises(InputError, match="phase 'blocks' has 7 steps and the model 8 blocks"):
        schedule().check_blocks(8)


def test_the_table_says_so() -> None:
    assert [row.details for row in schedule().rows()] == ["", "block by block", ""]
