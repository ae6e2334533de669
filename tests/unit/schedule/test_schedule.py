"""PrecisionSchedule: the state at every step, the rows, and what `check` refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.errors import InputError
from qat.schedule import Phase, PrecisionSchedule, PrecisionState
from qat.schedule.phases.blend import Blend
from qat.schedule.phases.calibrate import Calibrate
from qat.schedule.phases.cooldown import Cooldown
from qat.schedule.phases.delayed_activations import DelayedActivations
from qat.schedule.phases.fake_quant import FakeQuant
from qat.schedule.phases.float_warmup import FloatWarmup
from qat.schedule.phases.layerwise import Layerwise
from qat.schedule.phases.progressive_bits import ProgressiveBits


def four_phases() -> PrecisionSchedule:
    """20 steps: 2 float, 4 blend, 8 -> 4 bits over 10, 4 cooling down."""
    phases: dict[str, Phase] = {
        "warmup": FloatWarmup(share=0.1),
        "blend": Blend(steps=4),
        "main": ProgressiveBits(bits=(8, 4)),
        "end": Cooldown(share=0.2, final=0.5),
    }
    return PrecisionSchedule(phases, total_steps=20)


FLOAT = PrecisionState("warmup", weights=False, activations=False)
EIGHT = PrecisionState("main", weight_bits=8)
FOUR = PrecisionState("main", weight_bits=4)
STATES = [
    *[FLOAT] * 2,
    *[PrecisionState("blend", mix=mix) for mix in (0.25, 0.5, 0.75, 1.0)],
    *[EIGHT] * 5,
    *[FOUR] * 5,
    *[PrecisionState("end", lr_scale=scale) for scale in (0.875, 0.75, 0.625, 0.5)],
]


def test_the_state_of_every_step_by_hand() -> None:
    schedule = four_phases()
    assert [schedule.state_at(step) for step in range(20)] == STATES


@pytest.mark.parametrize("step", [20, 21, 10_000])
def test_beyond_the_end_is_the_last_state(step: int) -> None:
    assert four_phases().state_at(step) == STATES[-1]


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step=-1 must be 0 or more"):
        four_phases().state_at(-1)


@given(st.lists(st.integers(0, 25), min_size=1, max_size=40))
def test_the_state_does_not_depend_on_what_was_asked_before(steps: list[int]) -> None:
    schedule = four_phases()
    assert [schedule.state_at(step) for step in steps] == [STATES[min(step, 19)] for step in steps]


@given(st.integers(0, 20))
def test_a_resumed_run_sees_the_states_of_the_uninterrupted_one(stopped: int) -> None:
    before, after = four_phases(), four_phases()  # two processes, each with a schedule of its own
    resumed = [before.state_at(step) for step in range(stopped)] + [after.state_at(s) for s in range(stopped, 20)]
    assert resumed == STATES


def test_a_skipped_phase_is_not_there() -> None:
    schedule = PrecisionSchedule({"warmup": FloatWarmup(share=0), "main": FakeQuant()}, total_steps=5)
    assert list(schedule.phases) == ["main"]
    assert schedule.state_at(0) == PrecisionState("main")


def test_rows_have_one_line_for_each_stretch() -> None:
    shown = [(row.phase, row.kind, row.steps, row.bits, row.quantized, row.details) for row in four_phases().rows()]
    assert shown == [
        ("warmup", "float_warmup", "0-1", "-", "nothing", ""),
        ("blend", "blend", "2-5", "scheme", "all", "mix 0.25 -> 1"),
        ("main", "progressive_bits", "6-10", ">= 8", "all", ""),
        ("main", "progressive_bits", "11-15", ">= 4", "all", ""),
        ("end", "cooldown", "16-19", "scheme", "all", "lr 0.875 -> 0.5"),
    ]


def test_rows_cover_every_step_with_its_state() -> None:
    rows = four_phases().rows()
    assert [step for row in rows for step in range(row.first_step, row.last_step + 1)] == list(range(20))
    assert all(row.start == STATES[row.first_step] and row.end == STATES[row.last_step] for row in rows)


def test_to_dict_is_json_with_options_and_rows() -> None:
    saved = json.loads(json.dumps(four_phases().to_dict()))
    assert saved["total_steps"] == 20
    assert saved["phases"]["main"] == {
        "kind": "progressive_bits",
        "steps": None,
        "share": None,
        "bits": [8, 4],
        "shares": None,
    }
    assert [(row["first_step"], row["start"]["weight_bits"]) for row in saved["rows"]] == [
        (0, None),
        (2, None),
        (6, 8),
        (11, 4),
        (16, None),
    ]


@pytest.mark.parametrize(
    ("phases", "total_steps", "message"),
    [
        ({}, 10, "the schedule has no phase"),
        ({"main": FakeQuant()}, 0, "total_steps=0 must be 1 or more"),
        ({"mian": {"share": 0.5}}, 10, r"schedule.mian={'share': 0.5} is not a phase"),
    ],
)
def test_what_is_no_schedule_is_refused(phases: dict[str, Phase], total_steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrecisionSchedule(phases, total_steps)


@pytest.mark.parametrize(
    "phase",
    [
        FakeQuant(),
        Blend(),
        DelayedActivations(),
        Layerwise(),
        Cooldown(),
        ProgressiveBits(bits=(8, 4)),
        ProgressiveBits(bits=(8, 2)),
    ],
    ids=lambda phase: phase.kind,
)
def test_check_accepts_what_ends_fully_quantized(phase: Phase) -> None:
    PrecisionSchedule({"warmup": FloatWarmup(share=0.5), "main": phase}, 10).check(scheme_bits=(4, 8))


@pytest.mark.parametrize("phase", [FloatWarmup(), Calibrate()], ids=lambda phase: phase.kind)
def test_check_refuses_a_run_that_never_quantizes(phase: Phase) -> None:
    with pytest.raises(InputError, match="the fake quantizers stay off for the whole run"):
        PrecisionSchedule({"main": phase}, 10).check(scheme_bits=4)


class Ends(Phase):
    """Always in the state it is told."""

    def __init__(self, **options: bool | float) -> None:
        super().__init__(share=0.5)
        object.__setattr__(self, "options", options)

    def state(self, progress: float) -> PrecisionState:
        return PrecisionState("end", **self.options)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"weights": False}, "weights are float"),
        ({"activations": False}, "activations are float"),
        ({"weights": False, "activations": False}, "weights are float, activations are float"),
        ({"mix": 0.9}, "mix is 0.9, not 1"),
        ({"blocks": 0.5}, "blocks is 0.5, not 1"),
        ({"weight_bits": 6}, "weight_bits is 6, above the scheme's 4"),
    ],
)
def test_check_refuses_an_end_that_is_not_the_scheme(options: dict[str, bool | float], fault: str) -> None:
    schedule = PrecisionSchedule({"main": FakeQuant(), "end": Ends(**options)}, 10)
    with pytest.raises(InputError, match=f"the last phase 'end' does not end fully quantized: {fault};"):
        schedule.check(scheme_bits=(4, 8))


def test_check_holds_a_block_order_against_the_model() -> None:
    schedule = PrecisionSchedule({"layers": Layerwise(order=(1, 0), share=0.5), "main": FakeQuant()}, 10)
    schedule.check_blocks(2)
    with pytest.raises(InputError, match="phase 'layers': order=.* each of the model's 3 blocks"):
        schedule.check_blocks(3)


def test_check_takes_the_narrowest_group_of_the_scheme() -> None:
    schedule = PrecisionSchedule({"main": ProgressiveBits(bits=(8, 4))}, 10)
    schedule.check(scheme_bits=4)
    with pytest.raises(InputError, match="weight_bits is 4, above the scheme's 2"):
        schedule.check(scheme_bits=(2, 8))
