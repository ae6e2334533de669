from __future__ import annotations

import json
import math

import pytest

from qat.errors import InputError
from qat.report.environment import environment
from qat.report.metrics import (
    EngineResult,
    ExportResult,
    Metrics,
    QATQuality,
    Quality,
    Sample,
    Train,
    read,
    write,
)


def metrics() -> Metrics:
    return Metrics(
        recipe="demo/w4a16_lsq",
        model="tiny_llama",
        scheme="w4a16_channel",
        data={"source": "python_stdlib", "python": "3.11.7"},
        base=Quality(loss=1.5, perplexity=4.48, top1_agreement=1.0, kl=0.0, bytes=2000),
        ptq={"rtn": Quality(loss=1.66, bytes=500, of="tuned_float")},
        qat=QATQuality(loss=1.54, recovery={"rtn": 0.75}, recovery_against="tuned_float"),
        exports={
            "compressed_tensors": ExportResult(
                bytes=600,
                tensors=3,
                mismatched_codes=0,
                mismatched_scales=2,
                mismatched_zero_points=1,
                engines={
                    "transformers": EngineResult(status="ok", description="transformers 5", greedy_tokens_equal=(3, 4)),
                    "vllm": EngineResult(status="not_available", reason="not installed"),
                },
            )
        },
        train=Train(tokens_per_second=1000.0, peak_memory_bytes=1, seconds=2.0),
        samples=[Sample(prompt="def ", continuations={"qat": "main("})],
    )


def test_write_and_read_are_inverse(tmp_path):
    write(metrics(), tmp_path / "run/metrics.json")
    assert read(tmp_path / "run/metrics.json") == metrics()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]


def test_keys_are_sorted_and_named_as_documented(tmp_path):
    write(metrics(), tmp_path / "metrics.json")
    text = (tmp_path / "metrics.json").read_text()
    values = json.loads(text)
    assert text == json.dumps(values, indent=2, sort_keys=True) + "\n"
    assert values["float"]["loss"] == 1.5
    assert values["ptq"]["rtn"]["loss"] == 1.66
    assert values["qat"]["recovery"]["rtn"] == 0.75
    export = values["exports"]["compressed_tensors"]
    assert export["mismatched_codes"] == 0
    assert export["engines"]["transformers"]["greedy_tokens_equal"] == [3, 4]
    assert export["engines"]["vllm"]["status"] == "not_available"
    assert values["train"].keys() >= {"tokens_per_second", "peak_memory_bytes", "seconds"}


def test_mismatches_of_an_export_are_of_every_kind():
    assert metrics().exports["compressed_tensors"].mismatches == 3


def test_numbers_that_json_lacks_become_null(tmp_path):
    made = metrics()
    made.base = Quality(loss=800.0, perplexity=math.inf)
    write(made, tmp_path / "metrics.json")
    values = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert values["float"]["perplexity"] is None


def test_a_file_is_replaced_or_left_alone(tmp_path, monkeypatch):
    write(metrics(), tmp_path / "metrics.json")
    before = (tmp_path / "metrics.json").read_text()

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("qat.report.metrics.os.replace", fail)
    with pytest.raises(OSError, match="no"):
        write(Metrics(model="other", scheme="w8a8"), tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"model": "a", "scheme": "b", "exprots": {}}', "exprots.*did you mean 'exports'"),
        ('{"model": "a", "scheme": "b", "qat": {"loss": "low"}}', "qat.loss"),
        (
            '{"model": "a", "scheme": "b", "exports": {"x": {"bytes": 1, "tensors": 1, "mismatched_codes": 0, '
            '"mismatched_scales": 0, "engines": {"y": {"status": "fine"}}}}}',
            "exports.x.engines.y.status",
        ),
        ('{"scheme": "b"}', "model"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"metrics.json: .*{message}"):
        read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="metrics.json does not exist"):
        read(tmp_path / "metrics.json")


def test_environment_names_what_ran():
    found = environment()
    assert found.versions["torch"].startswith("2.")
    assert found.python.count(".") == 2
    assert found.cpus >= 1
