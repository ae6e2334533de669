"""The help pages, the version, completion, and that they answer without torch."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import qat
from qat.cli.help_text import EXAMPLES
from qat.cli.main import main
from qat.config.compose import ROW, choices, groups

COMMANDS = (
    *("run", "train", "ptq", "export", "evaluate", "validate", "bench", "compare"),
    *("deploy", "serve", "plan", "sensitivity", "allocate"),
)
HOSTING = {"target": "deploy", "gateway": "serve", "traffic": "plan", "pricing": "plan"}


@pytest.mark.parametrize(("group", "command"), HOSTING.items())
def test_the_page_of_a_command_with_a_config_of_its_own_shows_only_what_it_reads(
    capsys: pytest.CaptureFixture[str], group: str, command: str
) -> None:
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"\n{group}=\n" in page
    for name in choices(group):
        assert f"\n  {name} " in page
    for other in {*groups(), "recipe"} - {*HOSTING, "engine"}:
        assert f"\n{other}=\n" not in page


def test_the_page_of_serve_lists_the_engines_that_have_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    listed = capsys.readouterr().out.split("\nengine=\n")[1].split("\n\n")[0]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == ["transformers", "llama_cpp", "vllm"]


@pytest.mark.parametrize(("command", "shown"), [("compare", True), ("ptq", False), ("allocate", False)])
def test_rows_are_listed_as_they_are_typed(capsys: pytest.CaptureFixture[str], command: str, shown: bool) -> None:
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert ("\nrows=[<row>,...]\n" in page) == shown
    assert "\nrow=\n" not in page


def test_the_page_of_plan_says_how_a_trace_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert "traffic=trace traffic.file=<CSV>" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_commands_groups_and_recipes(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    page = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in page
    for name in [*({*groups()} - {ROW}), "base, w2a16_lsq", "qat run recipe=demo/w4a16_lsq", "--recipes DIR"]:
        assert name in page
    assert "\x1b" not in page  # plain when not a terminal


def test_the_page_of_a_command_describes_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    page = capsys.readouterr().out
    for group in [*groups(), "recipe"]:
        if group in {*HOSTING, ROW}:
            assert f"\n{group}=\n" not in page
            continue
        assert f"\n{group}=\n" in page
        for name in choices(group):
            assert f"\n  {name} " in page
    assert "Learned clip ranges." in page


@pytest.mark.parametrize("command", ["export", "validate"])
def test_the_page_for_a_finished_run_shows_what_can_be_changed_on_it(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"\n  qat {command} run=<run folder> " in page
    assert "\nexport=\n" in page
    assert "scheme=" not in page
    assert "recipe=" not in page


def test_help_shows_the_users_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.yaml").write_text("# Something of mine.\nseed: 1\n")
    assert main(["run", "--help", "--recipes", str(tmp_path)]) == 0
    assert "mine/a" in (page := capsys.readouterr().out)
    assert "Something of mine." in page


def test_every_shipped_config_and_recipe_says_what_it_is() -> None:
    for group in [*groups(), "recipe"]:
        for name, path in choices(group).items():
            assert path.read_text().startswith("# "), f"{group}/{name}"


@pytest.mark.parametrize("line", [line for line, _ in EXAMPLES if "resume=" not in line and " run=" not in line])
def test_the_examples_compose(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line.replace("1e-4,1e-3 --multirun", "1e-4"))
    assert main([*words[1:], *([] if "--cfg" in words else ["--cfg", "job"])]) == 0
    assert "_target_: qat." in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qat {qat.__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qat r", {"run"}),
        ("qat ", {*COMMANDS}),
        ("qat deploy target=sage", {"target=sagemaker"}),
        ("qat serve gateway.por", {"gateway.port="}),
        ("qat run recipe=demo/w4a1", {"recipe=demo/w4a16_lsq"}),
        ("qat run scheme=w8a1", {"scheme=w8a16"}),
        ("qat run recipe=demo/base trainer.max_", {"trainer.max_steps="}),
        ("qat validate engine=ll", {"engine=llama_cpp"}),
        ("qat export overw", {"overwrite="}),
    ],
)
def test_completion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, expected: set[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert set(capsys.readouterr().out.split()) == expected


def test_completion_can_be_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert main(["-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("complete -o nospace -o default -F hydra_bash_completion qat")


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["serve", "--help"], ["run", "recipe=demo/w4a16_lsq", "--cfg", "job"]]
)
def test_answers_without_torch(words: list[str], root: Path) -> None:
    program = (
        "import sys; from qat.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'wandb'} & sys.modules.keys();"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
