"""``expect`` bounds of a recipe."""

from __future__ import annotations

import pytest

from qat.errors import RunError
from qat.jobs.stages import promise

METRICS = {"qat": {"loss": 1.5, "recovery": {"rtn": 0.55}}, "tuned_float": None}


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"qat": {"recovery": {"rtn": {"min": 0.55}}}},
        {"qat": {"recovery": {"rtn": {"min": 0.5, "max": 0.6}}, "loss": {"max": 1.5}}},
    ],
)
def test_bounds_that_hold(bounds: dict[str, object]) -> None:
    promise.check(bounds, METRICS)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"qat": {"recovery": {"rtn": {"min": 0.6}}}}, "qat.recovery.rtn is 0.55, promised is at least 0.6"),
        ({"qat": {"loss": {"max": 1.4}}}, "qat.loss is 1.5, promised is at most 1.4"),
        ({"qat": {"recovery": {"gptq": {"min": 0}}}}, "qat.recovery.gptq was not measured, promised is at least 0"),
        ({"tuned_float": {"loss": {"max": 2}}}, "tuned_float.loss was not measured"),
        ({"qat": {"loss": {"min": 2, "max": 1}}}, "at least 2; qat.loss is 1.5, promised is at most 1"),
    ],
)
def test_a_missed_bound_says_value_and_bound(bounds: dict[str, object], message: str) -> None:
    with pytest.raises(RunError) as caught:
        promise.check(bounds, METRICS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["recipe=demo/w4a16_lsq", "seed=2", "run_dir=x", "logger=wandb", "logger.project=p"], []),
        (["trainer.device=cpu", "trainer.log_every=1", "trainer.num_threads=2", "export=[]"], []),
        (["engine=[vllm]", "engine.vllm.dtype=x", "overwrite=true"], []),
        (["trainer.max_steps=5"], ["trainer.max_steps=5"]),
        (["scheme=w8a8", "seed=1"], ["scheme=w8a8"]),
        (["+phase@schedule.x=blend"], ["+phase@schedule.x=blend"]),
        (["~scheme"], ["~scheme"]),
        (["trainer=other"], ["trainer=other"]),
        (["evaluate.blocks=2"], ["evaluate.blocks=2"]),
        (["trainer.max_steps=5", "expect.qat.recovery.rtn.min=0.1"], []),  # the user's own promise
    ],
)
def test_a_promise_is_for_the_recipe_as_it_is(overrides: list[str], expected: list[str]) -> None:
    assert promise.changed(overrides) == expected
