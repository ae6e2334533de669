"""Checks of a composed config: targets, option names, values."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException

from qat.config.check import check, instantiate
from qat.config.compose import compose
from qat.config.explain import explain
from qat.errors import InputError
from qat.observers.mse import MSE
from qat.ptq.rtn import RTN


def refused(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        check(compose(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_default_config_passes_and_is_plain_python() -> None:
    run = check(compose(["evaluate.blocks=4"]))
    assert run.evaluate.blocks == 4
    assert type(run.scheme) is dict


def test_instantiate_builds_nested_components_with_annotated_types() -> None:
    run = check(compose(["ptq=rtn_mse", "optimizer.betas=[0.8,0.9]", "+ptq.observer.candidates=1e1"]))
    ptq = instantiate(run.ptq, "ptq")
    assert isinstance(ptq, RTN)
    assert isinstance(ptq.observer, MSE)
    assert ptq.observer.candidates == 10
    assert type(ptq.observer.candidates) is int
    assert instantiate(run.optimizer, "optimizer").betas == (0.8, 0.9)


def test_instantiate_takes_arguments_of_the_program() -> None:
    run = check(compose([]))
    assert instantiate(run.observer, "observer", candidates=3).candidates == 3


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("optimizer", "os.system"),
        ("optimizer", "subprocess.run"),
        ("optimizer", "builtins.eval"),
        ("optimizer", "torch.load"),
        ("optimizer", "qat.paths.publish"),  # of qat, but not of the group's package
        ("optimizer", "qat.observers.mse.MSE"),  # another group's
        ("optimizer", "qat.training.optim.torch.load"),  # through a module that the package imports
        ("optimizer", "qat.training.optim.torch"),
        ("optimizer", "qat.training.optim.InputError"),
        ("optimizer", "qat.training.optim._private"),
        ("optimizer", "qat.training"),
        ("optimizer", "qat.training..optim"),
        ("optimizer", "qat.trainings.x"),
        ("data", "qat.data.python_stdlib.os.system"),
        ("ptq.observer", "os.system"),
        ("ptq.observer", "qat.observers.mse.torch.load"),
        ("baseline.ptq.rtn", "os.system"),
        ("export.compressed_tensors", "os.system"),
        ("engine.transformers", "os.system"),
        ("engine.transformers", "qat.export.compressed_tensors.CompressedTensorsExporter"),
    ],
)
def test_no_other_target_can_be_reached(key: str, target: str) -> None:
    message = refused(f"{key}._target_={target}")
    assert f"{key}._target_={target!r}" in message
    assert "allowed are classes and functions of qat." in message


def test_a_target_inside_plain_data_is_refused() -> None:
    assert "scheme.config_groups.weights._target_" in refused("+scheme.config_groups.weights._target_=os.system")
    assert "data.train.0._target_" in refused("data=text", "data.train=[{_target_:os.system}]")


def test_a_target_must_be_text() -> None:
    assert "optimizer._target_=3 is not allowed" in refused("optimizer._target_=3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+optimizer.learning_rate=1", "optimizer has no option 'learning_rate'"),
        ("optimizer.lr=fast", "optimizer.lr=fast: allowed is a number; write optimizer.lr=1.5"),
        ("optimizer.lr=true", "optimizer.lr=true: allowed is a number"),
        ("optimizer.lr='1e-3'", "optimizer.lr=1e-3: allowed is a number"),
        ("observer.candidates=1.5", "observer.candidates=1.5: allowed is a whole number"),
        ("fake_quantizer.learn=1", "fake_quantizer.learn=1: allowed is true or false"),
        ("fake_quantizer.learn=yes", "fake_quantizer.learn=yes: allowed is true or false"),
        ("optimizer.schedule=cosin", "did you mean 'cosine'?"),
        ("optimizer.schedule=cosin", "allowed is cosine, linear or constant; did you mean 'cosine'?"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: allowed is one with an item 1"),
        ("+nonsense=1", "there is no option 'nonsense'"),
        ("+evaluate.block=1", "evaluate has no option 'block'; did you mean 'blocks'"),
        ("+baseline.tuned=1", "baseline has no option 'tuned'; did you mean 'tuned_float'"),
        ("+expect.qat.loss=2", "expect.qat.loss=2 is not a bound"),
        ("+expect.qat.loss.max=low", "expect.qat.loss.max='low' is not a number"),
        ("run_dir=???", "run_dir has no value; give it as run_dir=<value>"),
        ("run_dir=${nope}", "nope"),
    ],
)
def test_a_mistake_is_named_by_its_key(override: str, message: str) -> None:
    with pytest.raises((InputError, HydraException, ValueError)) as caught:
        check(compose([override]))
    assert message in str(explain(caught.value))


def test_a_number_is_a_component_nowhere() -> None:
    assert "pick one" in refused("+export.mine=3")


@pytest.mark.parametrize("value", ["1e3", "1000.0"])
def test_a_whole_number_may_be_written_as_a_float(value: str) -> None:
    run = check(compose([f"observer.candidates={value}"]))
    assert instantiate(run.observer, "observer").candidates == 1000


def test_an_integer_is_a_number() -> None:
    assert instantiate(check(compose(["optimizer.lr=1"])).optimizer, "optimizer").lr == 1.0
