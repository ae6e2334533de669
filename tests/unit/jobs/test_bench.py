"""``qat bench export`` on a model of a few megabytes: what it reports, and that it leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qat.cli.main import main
from qat.engines.workers.worker_protocol import peak_memory
from qat.errors import InputError
from qat.jobs.bench import Options
from qat.jobs.stages import measured_export
from qat.jobs.stages.synthetic import config_of_size, write_model
from qat.models.skeleton import open_skeleton


@pytest.mark.slow
def test_it_reports_every_round_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "disk").mkdir()
    words = ["size=12MB", "shard_size=4MB", "rounds=1", f"bench_dir={tmp_path / 'disk'}", f"json={tmp_path / 'a.json'}"]
    assert main(["bench", "export", *words]) == 0
    assert [*(tmp_path / "disk").iterdir()] == []
    found = json.loads((tmp_path / "a.json").read_text())
    (only,) = found["rounds"]
    assert found["export_to_copy_time"] == only["seconds"] / only["copy_seconds"]
    assert only["peak_memory_bytes"] >= only["peak_memory_bytes_before"] > 50e6
    assert found["model_bytes"] / 5 < only["export_bytes"] < found["model_bytes"]
    assert found["packing_bytes_per_second"] > 0
    page = capsys.readouterr().out
    assert "ratio: export / copy" in page
    assert max(map(len, page.split("copy; packing")[0].splitlines()[2:])) <= 80


@pytest.mark.parametrize(("size", "low", "high"), [("12MB", 10e6, 12e6), ("60MB", 50e6, 60e6)])
def test_the_synthetic_model_has_the_size_that_was_asked_for(
    tmp_path: Path, size: str, low: float, high: float
) -> None:
    written = write_model(tmp_path, size, "5MB")
    files = [*tmp_path.glob("model-*.safetensors")]
    assert low < written <= high
    assert 0 < sum(path.stat().st_size for path in files) - written < 100_000
    assert len(files) > 1
    skeleton = open_skeleton(tmp_path)
    assert sum(parameter.nbytes for parameter in skeleton.model.parameters()) == 2 * written, "float32 there"
    weight = skeleton.read("model.layers.1.mlp.up_proj.weight").float()
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_synthetic_model_of_the_issue_is_llama_shaped() -> None:
    config = config_of_size("8GB")
    assert (config["hidden_size"], config["intermediate_size"], config["vocab_size"]) == (4096, 14336, 32768)
    assert config["num_hidden_layers"] == 17


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "qat bench measures export; write: qat bench export"),
        (["exprt"], "qat bench measures export"),
        (["export", "sise=1GB"], "has no option 'sise=1GB'.*did you mean 'size'"),
        (["export", "size"], "has no option 'size'"),
        (["export", "rounds=0"], "rounds=0 must be a whole number of 1 or more"),
        (["export", "rounds=two"], "rounds=two must be"),
    ],
)
def test_bad_options_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options.parse(words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("size=big", "'big' is no size"),
        ("size=1MB", "size=1MB is too small to measure; give 10MB or more"),
        ("size=900000TB", "choose a smaller size="),
        ("scheme=w4a16_g23", "scheme 'w4a16_g23' is not one of"),
        ("bench_dir=nowhere", "bench_dir=nowhere is no folder"),
    ],
)
def test_bad_values_exit_with_2(capsys: pytest.CaptureFixture[str], word: str, message: str) -> None:
    assert main(["bench", "export", word]) == 2
    assert message in capsys.readouterr().err


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    page = capsys.readouterr().out
    assert "qat bench export [key=value ...]" in page
    for name, value in vars(Options()).items():
        assert f"\n  {name}={value}" in page or (value is None and f"\n  {name}=" in page)


def test_peak_memory_is_that_of_the_whole_life() -> None:
    before = peak_memory()
    block = bytearray(300_000_000)
    block[::4096] = b"1" * len(block[::4096])
    high = peak_memory()
    del block
    assert high >= max(before, 300_000_000)
    assert peak_memory() > high - 5_000_000, "the kernel counts per processor, and not to the byte"


def test_packing_speed_is_that_of_16_bit_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measured_export.time, "process_time", lambda: next(clock))
    assert measured_export.packing_speed() == 2 * 14336 * 4096
