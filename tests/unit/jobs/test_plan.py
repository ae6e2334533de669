"""``qat plan``: what it takes from a run, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import random_llama

from qat.checkpoint import QuantizedCheckpoint
from qat.cli.main import main
from qat.jobs.plan import facts_of
from qat.prepare import prepare
from qat.scheme import preset

SMALL = ["traffic=poisson", "traffic.requests_per_second=0.01", "pricing=[groq]"]


def exit_code(*words: str) -> int:
    """Of a command: composition fails with a return, a job with SystemExit."""
    try:
        return main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_a_model_that_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan"
    assert main(["plan", "parameters=8e9", f"out={out}", *SMALL]) == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["model"]["bytes"] == {"float": 16_000_000_000, "int8": 8_000_000_000, "int4": 4_500_000_000}
    assert [(row["hosting"], row["precision"]) for row in plan["rows"]] == [
        ("groq", precision) for precision in ("float", "int8", "int4")
    ]
    page = (out / "index.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "8B parameters" in (told := capsys.readouterr().out)
    assert str(out / "index.html") in told.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say which model"),
        (["parameters=1e9", "run=somewhere"], "give one of run= and parameters=, not both"),
        (["parameters=0.5"], "parameters=0.5 must be a whole number of 1 or more"),
        (["run=nowhere"], "nowhere is not a run folder"),
        (["parameters=1e9", "pricing=[]"], "no pricing to compare"),
        (["parameters=1e9", "pricing=[groqq]"], "did you mean 'groq'"),
        (
            ["parameters=1e9", "traffic=poisson", "traffic.requests_per_second=-1"],
            "traffic.requests_per_second=-1.0 must be",
        ),
        (["parameters=1e9", "scheme=w8a8"], "scheme"),
    ],
)
def test_what_cannot_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert exit_code("plan", f"out={tmp_path / 'plan'}", *words) == 2
    assert said in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_plan_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert exit_code("plan", "parameters=1e9", f"out={tmp_path}", *SMALL) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_size_of_a_checkpoint_is_its_own_and_the_rest_by_bits() -> None:
    model = random_llama()
    prepare(model, preset("w4a16_g32"))
    quantized = QuantizedCheckpoint.freeze(model, preset("w4a16_g32"))
    facts = facts_of("mine", quantized)
    entries = sum(entry.shape.numel() for entry in quantized.weights.values())
    total = entries + sum(tensor.numel() for tensor in quantized.rest.values())
    assert facts.parameters == total
    assert facts.bytes["int4"] == quantized.nbytes
    assert (facts.bytes["float"], facts.bytes["int8"]) == (2 * total, total)
    config = quantized.config
    head = config["hidden_size"] // config["num_attention_heads"]
    assert facts.kv_bytes_per_token == 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * 2
