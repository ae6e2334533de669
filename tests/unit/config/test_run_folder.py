"""Where a run goes, and which existing folder it may take up."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qat.config import record
from qat.config.compose import compose
from qat.config.run_folder import RunFolder, choose, difference
from qat.config.schema import RunConfig
from qat.errors import InputError


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def chosen(*overrides: str, swept: Path | None = None) -> RunFolder:
    config = compose(overrides)
    run = OmegaConf.to_object(config)
    assert isinstance(run, RunConfig)
    return choose("run", run, config, overrides, swept)


def test_nothing_is_written_before_it_is_created(tmp_path: Path) -> None:
    folder = chosen("recipe=demo/base")
    assert list(tmp_path.iterdir()) == []
    assert folder.path.parent == Path("outputs/demo/base")
    folder.create()
    assert record.read_config(folder.path)["recipe"] == "demo/base"
    assert record.read_overrides(folder.path) == ["recipe=demo/base"]


def test_runs_that_begin_in_the_same_second_get_a_folder_each() -> None:
    folders = [chosen("recipe=demo/base", f"seed={seed}") for seed in range(3)]
    folders[1].path = folders[2].path = folders[0].path
    paths = [folder.create() for folder in folders]
    assert len(set(paths)) == 3
    assert [record.read_config(path)["seed"] for path in paths] == [0, 1, 2]
    assert Path("outputs/demo/base/latest").resolve() == paths[2].resolve()


def test_latest_points_at_the_newest() -> None:
    first, second = chosen("recipe=demo/base"), None
    first.create()
    second = chosen("recipe=demo/base")
    second.create()
    assert first.path != second.path
    latest = Path("outputs/demo/base/latest")
    assert latest.is_symlink()
    assert latest.resolve() == second.path.resolve()
    assert record.read_config(latest)["recipe"] == "demo/base"


def interrupted_inside(folder: RunFolder) -> None:
    with folder.whole():
        (folder.path / "half").touch()
        raise KeyboardInterrupt


def test_a_whole_folder_is_finished_or_absent() -> None:
    latest = Path("outputs/demo/base/latest")
    first = chosen("recipe=demo/base")
    with first.whole():
        (first.path / "result").touch()
        assert not latest.is_symlink()
    assert latest.resolve() == first.path.resolve()
    second = chosen("recipe=demo/base")
    with pytest.raises(KeyboardInterrupt):
        interrupted_inside(second)
    assert not second.path.exists()
    assert latest.resolve() == first.path.resolve()


def test_no_empty_folder_is_left_above_one_that_failed() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_inside(chosen("recipe=demo/base"))
    assert not Path("outputs").exists()
    Path("outputs/demo").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        interrupted_inside(chosen("recipe=demo/base"))
    assert list(Path("outputs").rglob("*")) == [Path("outputs/demo")], "that one was there before"


def test_a_run_is_taken_up_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("corpus/a.txt", "mine/own/a.yaml", "away/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "mine/own/a.yaml").write_text("data: {test: [corpus/a.txt]}\ndefaults: [{override /data: text}]\n")
    words = ["recipe=own/a", "recipes=mine", "data.train=[corpus/*.txt]", "run_dir=there"]
    config = compose(words, "mine")
    run = OmegaConf.to_object(config)
    assert isinstance(run, RunConfig)
    choose("run", run, config, words).create()
    monkeypatch.chdir(tmp_path / "away")
    recorded = record.read_overrides(Path("../there"))
    assert recorded[:4] == words, "what was typed stays as it was"
    config = compose([*recorded, "resume=../there"], tmp_path / "mine")
    assert list(config.data.train) == [str(tmp_path / "corpus/*.txt")]
    assert list(config.data.test) == [str(tmp_path / "corpus/a.txt")], "the recipe's own too"
    assert config.recipes == str(tmp_path / "mine")
    run = OmegaConf.to_object(config)
    assert isinstance(run, RunConfig)
    assert choose("run", run, config, recorded).exists


def test_a_folder_that_cannot_be_recorded_is_not_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record, "write", full)
    with pytest.raises(OSError, match="No space"), chosen("run_dir=mine").whole():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_run_has_made_is_left_alone(tmp_path: Path) -> None:
    folder = chosen("run_dir=mine")
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(InputError, match="cannot be made"), folder.whole():
        pass
    assert (tmp_path / "mine").read_text() == "a file"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [(["model=hf", "model.path=meta-llama/Llama-3.2-1B"], "Llama-3.2-1B"), ([], "tiny_llama")],
)
def test_without_a_recipe_the_model_gives_the_name(overrides: list[str], name: str) -> None:
    assert chosen(*overrides).path.parent == Path("outputs") / name


def test_a_given_folder_must_not_exist(tmp_path: Path) -> None:
    assert chosen("run_dir=mine").path == Path("mine")
    (tmp_path / "mine").mkdir()
    assert chosen("run_dir=mine").path == Path("mine")  # empty: nothing can be lost
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(InputError, match="run_dir=mine exists; choose another, or continue it with resume=mine"):
        chosen("run_dir=mine")


def test_a_sweep_job_goes_where_hydra_put_it() -> None:
    assert chosen(swept=Path("sweep/3")).path == Path("sweep/3")


def test_an_existing_run_is_left_as_it_is() -> None:
    chosen("run_dir=mine", "seed=1").create()
    before = (Path("mine") / ".hydra" / "overrides.yaml").read_bytes()
    again = chosen("run_dir=mine", "seed=1", "resume=mine", "logger=wandb")
    assert again.exists
    again.create()
    assert (Path("mine") / ".hydra" / "overrides.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_steps=7", "trainer.max_steps=7 but mine was started with 1000"),
        ("seed=2", "seed=2 but mine was started with 0"),
        ("scheme=w8a8", "scheme.config_groups.weights.weights.num_bits=8 but mine was started with 4"),
        ("recipe=demo/base", "recipe=demo/base but mine was started with None"),
        ("+phase@schedule.x=blend", "schedule.x={"),
    ],
)
def test_a_resumed_run_trains_as_it_began(override: str, message: str) -> None:
    chosen("run_dir=mine").create()
    with pytest.raises(InputError) as caught:
        chosen("resume=mine", override)
    assert message in str(caught.value)
    assert "must train as it began" in str(caught.value)


def test_what_does_not_train_may_change_on_resume() -> None:
    chosen("run_dir=mine").create()
    assert chosen("resume=mine", "logger=wandb", "evaluate.blocks=3", "export=[]", "expect={}").exists


def test_an_export_that_is_there_is_not_resumed_with_other_options() -> None:
    folder = chosen("run_dir=mine", "export=[compressed_tensors,torchao]")
    folder.create()
    (folder.exports / "torchao").mkdir(parents=True)
    smaller = ("export=[compressed_tensors,torchao]", "export.torchao.max_shard_size=1GB")
    with pytest.raises(InputError) as caught:
        chosen("resume=mine", *smaller)
    assert str(caught.value) == (
        "export.torchao.max_shard_size=1GB but mine/exports/torchao was written with 5GB; replace it with: "
        "qat export run=mine export=torchao export.torchao.max_shard_size=1GB overwrite=true"
    )
    assert chosen("run=mine", *smaller).exists
    assert chosen("resume=mine", "export=[compressed_tensors,torchao]").exists
    assert chosen("resume=mine", smaller[0], "export.compressed_tensors.max_shard_size=1GB").exists  # not written yet


def test_latest_is_followed_once() -> None:
    first = chosen("recipe=demo/base")
    first.create()
    assert chosen("recipe=demo/base", "run=outputs/demo/base/latest").path == first.path


def test_run_takes_up_a_folder_whatever_changed() -> None:
    chosen("run_dir=mine").create()
    assert chosen("run=mine", "seed=9", "scheme=w8a8").exists


@pytest.mark.parametrize("key", ["resume", "run"])
def test_no_run_folder(key: str) -> None:
    with pytest.raises(InputError, match="nowhere is not a run folder"):
        chosen(f"{key}=nowhere")


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ("k.a.b", 1, 2)),
        ({"a": 1}, {"a": 1, "b": 2}, ("k.b", None, 2)),
        ({"a": 1, "b": 2}, {"a": 1}, ("k.b", 2, None)),
        ([1, 2], [2, 1], ("k", [1, 2], [2, 1])),
        ({"a": [1]}, {"a": [1]}, None),
        (None, {}, ("k", None, {})),
    ],
)
def test_difference(saved: object, now: object, expected: object) -> None:
    assert difference(saved, now, "k") == expected
