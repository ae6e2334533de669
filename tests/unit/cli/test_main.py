"""The command line: exit codes, one-line errors, nothing written on bad input. Jobs are stand-ins."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from qat.cli import commands
from qat.cli.main import main
from qat.config import record
from qat.config.run_folder import RunFolder
from qat.config.schema import RunConfig
from qat.errors import InputError, RunError

Job = Callable[[RunConfig, RunFolder], None]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QAT_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], None]:
    """Put a stand-in in the place of every job."""

    def install(job: Job) -> None:
        monkeypatch.setattr(commands, "load", lambda name: SimpleNamespace(main=job, ACCEPTS=("resume", "run")))

    return install


def error_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Run a command that must fail with one line on stderr, and return it."""
    try:
        found = main(list(words))
    except SystemExit as stop:
        found = stop.code
    captured = capsys.readouterr()
    assert found == code
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("qat: ")
    assert list(Path().iterdir()) == []
    return lines[0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["tran"],
            [
                "there is no command 'tran'",
                "did you mean 'train'",
                "commands: allocate, bench, compare, deploy, evaluate, export",
            ],
        ),
        (
            ["run", "recipe=demo/w4a16_lsqq"],
            ["recipe 'demo/w4a16_lsqq' not found", "did you mean 'demo/w4a16_lsq'"],
        ),
        (["run", "recipe=demo"], ["recipe 'demo' not found", "demo/base"]),
        (
            ["run", "scheme=w4a16_g23"],
            ["scheme 'w4a16_g23' not found", "'w4a16_g32'", "choices: w2a16_channel"],
        ),
        (["run", "trainer.max_stepz=5"], ["trainer has no option 'max_stepz'; did you mean 'max_steps'"]),
        (["run", "trainr.max_steps=5"], ["there is no option 'trainr'; did you mean 'trainer'"]),
        (["run", "schme=w8a8"], ["there is no option 'schme'; did you mean 'scheme'"]),
        (["run", "seed=one"], ["seed=one: allowed is a whole number; write seed=1"]),
        (["run", "evaluate.blocks=1.5"], ["evaluate.blocks=1.5: allowed is a whole number; write evaluate.blocks=1"]),
        (
            ["run", "trainer.max_steps=few"],
            ["trainer.max_steps=few: allowed is a whole number; write trainer.max_steps=1"],
        ),
        (
            ["run", "trainer.precision=fp32"],
            ["trainer.precision=fp32: allowed is 32, bf16-mixed or 16-mixed; did you mean '32'?"],
        ),
        (["run", "seed=null"], ["seed=null: allowed is a whole number; write seed=1"]),
        (["run", "trainer=3"], ["'trainer=3': allowed is a name; choices: default"]),
        (["run", "recipe=3"], ["'recipe=3': allowed is a name; choices: "]),
        (["run", "phase@schedule.x=3"], ["'phase@schedule.x=3': allowed is a name; choices: blend"]),
        (["serve", "engine=[a,1]"], ["'engine=[a,1]': allowed is a list of names; choices: gptqmodel"]),
        (["serve", "gateway=3"], ["'gateway=3': allowed is a name; choices: groq"]),
        (["serve", "port=1"], ["there is no option 'port' by itself; did you mean gateway.port=1?"]),
        (["run", "max_steps=1"], ["there is no option 'max_steps' by itself; did you mean trainer.max_steps=1?"]),
        (["deploy", "target=3"], ["'target=3': allowed is a name; choices: bedrock"]),
        (["deploy", "run=[a]"], ['run=["a"]: allowed is text; write \'run="..."\'']),
        (["plan", "parameters=1.5"], ["parameters=1.5 must be a whole number of 1 or more, as in 8e9"]),
        (["plan", "days=[1]"], ["days=[1]: allowed is a number; write days=1.5"]),
        (
            ["run", "scheme.ignore={a:1}"],
            ["scheme.ignore is given names with values: allowed is a list; write 'scheme.ignore=[...,...]'"],
        ),
        (
            ["run", "scheme.config_groups=[a]"],
            ["config_groups is given a list: allowed is names with values; write +scheme.config_groups.<name>=<value>"],
        ),
        (["run", "evaluate=[a]"], ["evaluate is given a list", "write evaluate.<name>=<value>"]),
        (["run", "scheme=null"], ["scheme=null: to leave scheme out, write '~scheme'; choices: w2a16_channel"]),
        (["run", "logger=null"], ["logger=null: to leave logger out, write '~logger'; choices: csv"]),
        (["run", "ptq@baseline.ptq.rtn=null"], ["to leave ptq@baseline.ptq.rtn out, write '~ptq@baseline.ptq.rtn'"]),
        (["run", "export=null"], ["export=null: to leave export out, write export=[]"]),
        (["run", "~export"], ["'~export' cannot leave it out; write export=[]"]),
        (
            ["compare", "row=gptq"],
            ["row is no part of a run; the rows of qat compare are picked with rows=[<row>,...]"],
        ),
        (["run", "~phase@schedule.x"], ["this run has no phase@schedule.x, so there is nothing to leave out"]),
        (["run", "phaze@schedule.x=blend"], ["config group 'phaze' does not exist; did you mean 'phase'? groups: "]),
        (["run", "schedule.x=1"], ["schedule has no 'x'; add it with +phase@schedule.x=<phase>"]),
        (["run", "+schedule.x=1"], ["schedule.x=1 is not a component; pick one, as in +phase@schedule.x=<phase>"]),
        (["run", "baseline.ptq.x.y=1"], ["baseline.ptq has no 'x'; add it with +ptq@baseline.ptq.x=<algorithm>"]),
        (["run", "ptq@baseline.ptq.x=rtn"], ["to add one, write +ptq@baseline.ptq.x=<choice>"]),
        (["run", "phase=blend"], ["to add one, write +phase@schedule.<name>=<phase>"]),
        (["run", "seed"], ["'seed' cannot be read as an option; write it as key=value"]),
        (["run", "run_dir=a=b"], ["'run_dir=a=b' cannot be read", "put quotes"]),
        (["run", "seed=1,2"], ["Ambiguous value", "--multirun"]),
        (["run", "model=hf"], ["model.path has no value; give it as model.path=<value>"]),
        (
            ["run", "phase@schedule.x=blend"],
            ["there is no phase@schedule.x to replace; to add one, write +phase@schedule.x=<choice>"],
        ),
        (["run", "--confg", "job"], ["unrecognized arguments: --confg"]),
        (["run", "--recipes"], ["--recipes needs a folder"]),
        (["run", "--recipes", "nowhere"], ["nowhere is not a folder"]),
        (["run", "resume=nowhere"], ["nowhere is not a run folder"]),
        (["run", "resume=a", "run=b"], ["resume and run exclude each other"]),
        (["run", "optimizer._target_=os.system"], ["optimizer._target_='os.system' is not allowed"]),
        (["run", "--cfg", "job", "recipe=nope/x"], ["recipe 'nope/x' not found"]),
    ],
)
def test_a_mistake_is_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    line = error_of(capsys, *words)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad\n  input"), 2, "qat: error: bad input"),
        (RunError("it failed"), 1, "qat: error: it failed"),
        (OSError(errno.ENOSPC, "No space left on device", "out.bin"), 2, "no disk space left at out.bin"),
        (KeyboardInterrupt(), 130, "qat: interrupted"),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str],
    use: Callable[[Job], None],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def job(run: RunConfig, folder: RunFolder) -> None:
        raise error

    use(job)
    assert line in error_of(capsys, "run", "seed=1", code=code)


def test_a_bug_shows_its_traceback(capsys: pytest.CaptureFixture[str], use: Callable[[Job], None]) -> None:
    def job(run: RunConfig, folder: RunFolder) -> None:
        raise ZeroDivisionError("oops")

    use(job)
    with pytest.raises(SystemExit, match="1"):
        main(["run", "seed=1"])
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "unexpected ZeroDivisionError" in err.splitlines()[-1]


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAT_DEBUG", "1")
    assert main(["run", "scheme=nope"]) == 2
    assert "MissingConfigException" in capsys.readouterr().err


def test_an_interrupted_job_says_how_to_resume(capsys: pytest.CaptureFixture[str], use: Callable[[Job], None]) -> None:
    def job(run: RunConfig, folder: RunFolder) -> None:
        folder.create()
        raise KeyboardInterrupt

    use(job)
    with pytest.raises(SystemExit, match="130"):
        main(["run", "run_dir=here"])
    assert "resume with: qat run resume=here" in capsys.readouterr().err


def test_the_run_folder_records_what_ran(use: Callable[[Job], None]) -> None:
    seen: list[RunConfig] = []

    def job(run: RunConfig, folder: RunFolder) -> None:
        seen.append(run)
        folder.create()

    use(job)
    words = ["recipe=demo/w4a16_lsq", "seed=3", "run_dir=here", "+loss.token=abc"]
    with pytest.raises(SystemExit, match="2"):  # not an option of the loss
        main(["run", *words])
    assert main(["run", *words[:3]]) == 0
    assert seen[0].seed == 3
    assert seen[0].choices.scheme == "w4a16_channel"
    config = yaml.safe_load(Path("here/.hydra/config.yaml").read_text())
    assert (config["recipe"], config["seed"], config["model"]["_target_"]) == (
        "demo/w4a16_lsq",
        3,
        "qat.models.tiny_llama.load",
    )
    assert yaml.safe_load(Path("here/.hydra/overrides.yaml").read_text()) == words[:3]
    assert sorted(path.name for path in Path().iterdir()) == ["here"]


def test_planted_secrets_are_not_in_the_run_folder(use: Callable[[Job], None]) -> None:
    def job(run: RunConfig, folder: RunFolder) -> None:
        folder.create()

    use(job)
    words = [
        *("data=text", "data.train=['https://me:hush@host/a.txt','b.txt']", "data.test=['https://host/c?token=hush']"),
        *("model=hf", "model.path=any", "model.architecture={model_type: llama, hub: {api_key: hush}}"),
    ]
    assert main(["run", *words, "run_dir=here"]) == 0
    for name in ("config.yaml", "overrides.yaml"):
        text = Path("here/.hydra", name).read_text()
        assert "hush" not in text
        assert "<redacted>" in text
    assert "https://<redacted>@host/a.txt" in Path("here/.hydra/config.yaml").read_text()


def test_resume_recomposes_the_run_with_new_overrides(
    use: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[RunConfig, RunFolder]] = []

    def job(run: RunConfig, folder: RunFolder) -> None:
        seen.append((run, folder))
        folder.create()

    use(job)
    assert main(["train", "recipe=demo/w4a16_lsq", "seed=3", "run_dir=here"]) == 0
    assert main(["train", "resume=here", "logger=tensorboard"]) == 0
    run, folder = seen[1]
    assert (run.seed, run.recipe, folder.path, folder.exists) == (3, "demo/w4a16_lsq", Path("here"), True)
    assert run.logger["_target_"].endswith("TensorBoardLogger")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "resume=here", "seed=4"])
    assert "seed=4 but here was started with 3" in capsys.readouterr().err


def test_resume_finds_the_users_recipes_again(tmp_path: Path, use: Callable[[Job], None]) -> None:
    seen: list[RunConfig] = []

    def job(run: RunConfig, folder: RunFolder) -> None:
        seen.append(run)
        folder.create()

    recipes = tmp_path / "my recipes" / "mine"
    recipes.mkdir(parents=True)
    (recipes / "a.yaml").write_text("seed: 5\n")
    use(job)
    assert main(["run", "recipe=mine/a", "--recipes", str(recipes.parent), "run_dir=here"]) == 0
    assert main(["run", "resume=here"]) == 0
    assert [run.seed for run in seen] == [5, 5]


@pytest.mark.parametrize(
    ("command", "key", "takers"),
    [
        ("run", "run", "allocate, deploy, evaluate, export, plan, serve, validate"),
        ("export", "resume", "compare, ptq, run, sensitivity, train"),
        ("ptq", "run", "allocate, deploy, evaluate, export, plan, serve, validate"),
    ],
)
def test_a_command_refuses_the_folder_it_has_no_use_for(
    capsys: pytest.CaptureFixture[str], command: str, key: str, takers: str
) -> None:
    record.write({}, [], Path("here"))
    with pytest.raises(SystemExit, match="2"):
        main([command, f"{key}=here"])
    assert f"{key}=here is not for qat {command}, but for qat {takers}" in capsys.readouterr().err


def test_a_sweep_gives_every_job_its_folder_and_goes_on_after_a_failure(
    capsys: pytest.CaptureFixture[str], use: Callable[[Job], None]
) -> None:
    def job(run: RunConfig, folder: RunFolder) -> None:
        if run.seed == 1:
            raise RunError("seed 1 failed")
        folder.create()

    use(job)
    assert main(["run", "seed=1,2,3", "--multirun"]) == 1
    assert "qat: error: seed 1 failed" in capsys.readouterr().err
    (sweep,) = Path("outputs/multirun").iterdir()
    seeds = {
        path.name: yaml.safe_load((path / ".hydra/config.yaml").read_text())["seed"]
        for path in sweep.iterdir()
        if (path / ".hydra").is_dir()
    }
    assert seeds == {"1": 2, "2": 3}
    assert not (sweep / "multirun.yaml").exists()  # Hydra does not redact it


def test_cfg_prints_the_composed_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "recipe=demo/base", "--cfg", "job", "seed=7"]) == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert (config["seed"], config["scheme"]) == (7, None)
    assert list(Path().iterdir()) == []
