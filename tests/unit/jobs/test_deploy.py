"""``qat deploy``: what each action needs, writes and refuses; what a host checks is tested with the host."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from zipfile import ZipFile

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from support import error_of, random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.cli.main import main
from qat.errors import RunError
from qat.jobs import deploy


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose twin is exact: INT4 codes times bfloat16 scales, and the rest in float16."""
    folder = tmp_path_factory.mktemp("deploy") / "finished"
    words = ["scheme=w4a16_g32", "rest_dtype=float16", "evaluate.blocks=1", "engine=[]", "export=[]"]
    assert main(["ptq", f"run_dir={folder}", *words]) == 0
    return folder


BEDROCK = ("deploy", "target=bedrock", "target.parity=false")


def test_prepare_writes_the_exact_twin_and_the_integers_and_checks_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BEDROCK, f"run={run}"]) == 0
    made = run / "deploy" / "bedrock"
    twin = load_file(made / "import" / "model.safetensors")
    for name, weight in QuantizedCheckpoint.load(run / "quantized").weights.items():
        value, stored = weight.grid.value(), twin[f"{name}.weight"]
        assert stored.dtype.itemsize == 2
        assert (stored.double() == value.double()).all()
    assert (made / "packed" / "config.json").is_file()
    report = json.loads((made / "preflight.json").read_text())
    assert {check["rule"].split(".")[1] for check in report["checks"]} == {str(rule) for rule in range(1, 11)}
    assert not [check for check in report["checks"] if check["status"] == "fail"]
    told = capsys.readouterr().out
    assert "bedrock preflight" in told
    options = "target.parity=false 'target.s3_uri=\"s3://<bucket>/<prefix>\"' target.create_role=true --dry-run"
    assert told.splitlines()[-1] == f"next: qat deploy target=bedrock run={run} action=push {options}"


def test_the_command_that_is_named_next_works(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BEDROCK, f"run={run}"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "target.s3_uri still says <bucket>: put your own there" in error_of(capsys, *shlex.split(line)[2:])
    line = line.replace("<bucket>", "bucket").replace("<prefix>", "tiny")
    report = run / "deploy" / "bedrock" / "preflight.json"
    report.write_text("as it was")
    assert main(shlex.split(line)[2:]) == 0
    told = capsys.readouterr()
    calls = [json.loads(line) for line in told.out.splitlines()]  # which fails at anything else
    assert "CreateModelImportJob" in {call["operation"] for call in calls}
    assert "bedrock preflight" in told.err and "dry run: nothing was sent" in told.err
    assert report.read_text() == "as it was"


def test_a_second_prepare_needs_overwrite(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BEDROCK, f"run={run}"]) == 0
    (run / "deploy" / "bedrock" / "mine.txt").write_text("mine")
    said = "exists already; action=preflight checks it again, overwrite=true writes it again"
    assert said in error_of(capsys, *BEDROCK, f"run={run}")
    assert (run / "deploy" / "bedrock" / "mine.txt").is_file()
    assert main([*BEDROCK, f"run={run}", "overwrite=true"]) == 0
    assert not (run / "deploy" / "bedrock" / "mine.txt").exists()


def test_a_folder_of_somebody_else_is_checked_and_left_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BEDROCK, f"run={run}"]) == 0
    folder = run / "deploy" / "bedrock" / "import"
    (folder / "adapter_config.json").write_text("{}")
    before = sorted(path.name for path in folder.iterdir())
    report = tmp_path / "report.json"
    words = [*BEDROCK, f"folder={folder}", "action=preflight"]
    said = error_of(capsys, *words, f"report={report}", code=1)
    assert "fails 1 of the rules of bedrock: bedrock.8" in said
    assert "found adapter_config.json; allowed: " in said and "; fix: " in said
    assert [check["rule"] for check in json.loads(report.read_text())["checks"] if check["status"] == "fail"] == [
        "bedrock.8.leftovers"
    ]
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["target=bedrock"], "run=<run folder>"),
        (["run=a"], "say where to"),
        (["target=bedrock", "run=a", "folder=b"], "give one of run= and folder=, not both"),
        (["target=groq", "target.route=lora", "folder=."], "target.adapter=<folder>"),
        (["target=bedrock", "folder=.", "action=push"], "add: 'target.s3_uri=\"s3://<bucket>/<prefix>\"'"),
        (["target=bedrock", "folder=.", "action=preflight", "target.key_policy=no.json"], "target.key_policy=no.json:"),
        (["target=bedrock", "folder=b"], "action=prepare writes from a finished run"),
        (["target=bedrock", "run=nowhere"], "nowhere is not a run folder"),
        (["target=bedrok", "run=a"], "did you mean 'bedrock'"),
        (["target=bedrock", "run=a", "action=pussh"], "did you mean 'push'"),
        (["target=bedrock", "run=a", "--dry-run"], "action=prepare sends nothing"),
        (["target=bedrock", "run=a", "target.regoin=us-east-1"], "did you mean 'region'"),
        (["target=bedrock", "run=a", "scheme=w8a8"], "scheme"),
        (["target=bedrock", "folder=nowhere", "action=preflight"], "nowhere"),
        (["target=bedrock", "run=a", "action=push", "overwrite=true"], "overwrite=true is for action=prepare"),
        (["target=groq", "target.route=lora", "folder=a", "overwrite=true"], "a folder=... may hold other things"),
        (["target=bedrock", "folder=.", "action=preflight", "report=nowhere/a.json"], "lies in no folder"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in error_of(capsys, "deploy", *words)


def test_an_adapter_needs_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = get_peft_model(random_llama(), LoraConfig(r=8, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    words = ["deploy", "target=groq", "target.route=lora", f"target.adapter={tmp_path / 'adapter'}"]
    assert main([*words, "target.base_model=llama-3.1-8b-instant", f"folder={tmp_path / 'groq'}"]) == 0
    with ZipFile(tmp_path / "groq" / "adapter.zip") as archive:
        assert sorted(archive.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"next: qat deploy target=groq folder={tmp_path / 'groq'} action=push target.route=lora ")
    assert main(shlex.split(line)[2:]) == 0
    assert '"name": "adapter", "type": "lora"' in capsys.readouterr().out
    said = error_of(capsys, "deploy", "target=groq", f"folder={tmp_path / 'groq'}", "action=push")
    assert "prepared with target.route=lora, not api" in said
    again = error_of(capsys, *words, f"folder={tmp_path / 'groq'}")
    assert "action=preflight checks it again; to write again, remove it or name another folder" in again


def test_a_push_is_not_written_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BEDROCK, f"run={run}"]) == 0
    (run / "deploy" / "bedrock" / "pushed.json").write_text("{}")
    assert "action=delete" in error_of(capsys, *BEDROCK, f"run={run}", "overwrite=true")
    assert (run / "deploy" / "bedrock" / "pushed.json").is_file()


@pytest.mark.parametrize("action", ["preflight", "push", "delete"])
def test_what_was_not_prepared_says_how(run: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    said = error_of(capsys, *BEDROCK, "target.s3_uri=s3://bucket/tiny", f"run={run}", f"action={action}")
    assert f"qat deploy target=bedrock run={run}" in said
    assert not (run / "deploy").exists()


def test_a_failed_prepare_leaves_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(target: object, source: object, folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RunError("the disk went away")

    monkeypatch.setattr("qat.deploy.bedrock.target.Bedrock.prepare", half)
    assert "the disk went away" in error_of(capsys, *BEDROCK, f"run={run}", code=1)
    assert not (run / "deploy").exists() or not [*(run / "deploy").iterdir()]


def test_a_push_of_what_fails_a_rule_sends_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*BEDROCK, f"run={run}"]) == 0
    (run / "deploy" / "bedrock" / "import" / "training_args.bin").write_bytes(b"x")
    sent: list[object] = []
    monkeypatch.setattr("qat.deploy.bedrock.target.Bedrock.push", lambda *words: sent.append(words))
    words = ["target.s3_uri=s3://bucket/tiny", f"run={run}", "action=push"]
    assert "bedrock.8" in error_of(capsys, *BEDROCK, *words, code=1)
    assert not sent
    assert deploy.ACCEPTS == ("run",)
