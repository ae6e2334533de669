from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from qat.report.metrics import EngineResult, ExportResult, Metrics, QATQuality, Quality, Train
from qat.report.summary import print_summary

BYTES = {"bytes": 901_000}
FULL = Metrics(
    model="tiny_llama",
    scheme="w4a16_channel",
    base=Quality(loss=1.8212, perplexity=6.179, top1_agreement=1.0, kl=0.0, bytes=3_812_000),
    tuned_float=Quality(loss=1.7918, perplexity=6.0, top1_agreement=0.94, kl=0.021, bytes=3_812_000),
    ptq={
        "rtn": Quality(loss=1.8871, perplexity=6.6, top1_agreement=0.83, kl=0.11, of="tuned_float", **BYTES),
        "awq": Quality(loss=8.9, perplexity=7332.0, top1_agreement=0.1, kl=5.11, of="tuned_float", **BYTES),
    },
    qat=QATQuality(
        loss=1.8083,
        perplexity=6.1,
        top1_agreement=0.9,
        kl=0.03,
        recovery={"rtn": 0.827, "awq": None},
        recovery_undefined={"awq": "PTQ lost nothing"},
        recovery_against="tuned_float",
        **BYTES,
    ),
    exports={
        "compressed_tensors": ExportResult(
            bytes=912_345,
            tensors=29,
            mismatched_codes=0,
            mismatched_zero_points=2,
            mismatched_scales=3,
            engines={
                "transformers": EngineResult(
                    status="ok",
                    description="transformers 5.23.0",
                    weights_different=0,
                    max_logit_difference=1.2e-6,
                    perplexity=6.1,
                    greedy_tokens_equal=(80, 80),
                    prompt_tokens_per_second=23512.2,
                    generated_tokens_per_second=850.4,
                    peak_memory_bytes=1_212_000_000,
                ),
                "vllm": EngineResult(status="not_available", reason="not installed: scripts/engines.sh vllm"),
                "transformers_4_51": EngineResult(status="failed", reason="no such file"),
            },
        ),
        "gguf": ExportResult(bytes=5, tensors=29, mismatched_codes=0, mismatched_scales=0),
    },
    train=Train(tokens_per_second=23512.2, peak_memory_bytes=1_212_000_000, seconds=142.2),
)


def text_of(metrics: Metrics, folder: Path | None = None, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(metrics, folder, console)
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return line.split(name, 1)[1].split()


def test_every_row_and_number_fits_80_columns():
    text = text_of(FULL, Path("outputs/demo/w4a16_lsq/2026-11-24_08-30-11"))
    assert row(text, "float ") == ["1.8212", "6.179", "+2.98%", "100.0%", "0.0000", "3.81", "MB"]
    assert row(text, "tuned float") == ["1.7918", "6.000", "-", "94.0%", "0.0210", "3.81", "MB"]
    assert row(text, "PTQ rtn (tuned)") == ["1.8871", "6.600", "+10.00%", "83.0%", "0.1100", "901", "kB"]
    assert row(text, "PTQ awq (tuned)") == ["8.9000", "7,332", "x1,222", "10.0%", "5.1100", "901", "kB"]
    assert row(text, "QAT") == ["1.8083", "6.100", "+1.67%", "90.0%", "0.0300", "901", "kB"]
    assert row(text, "compressed_tensors") == ["5", "912", "kB"]
    assert row(text, "transformers ") == ["0", "1.2e-06", "6.100", "80/80", "23.5k", "850", "1.21", "GB"]
    assert row(text, "transformers_4_51") == row(text, "vllm") == ["-"] * 7
    assert row(text, "gguf") == ["0", "5", "B"]
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_recovery_engine_cost_and_place_are_told():
    text = text_of(FULL, Path("outputs/demo"))
    assert "recovery against PTQ rtn of tuned float: 82.7%" in text
    assert "recovery against PTQ awq of tuned float: undefined, PTQ lost nothing" in text
    lines = text_of(FULL, width=120).splitlines()
    assert "compressed_tensors was loaded by transformers 5.23.0" in lines
    assert "compressed_tensors in vllm: not available: not installed: scripts/engines.sh vllm" in lines
    assert "compressed_tensors in transformers_4_51: failed: no such file" in lines
    assert "gguf was loaded by none of the engines that were chosen (engine=...)" in lines
    assert "training took 142 s, 23,512 tokens/s, peak memory 1.21 GB" in text
    assert text.rstrip().endswith("results: outputs/demo")


def test_a_run_with_little_measured_still_has_a_table():
    text = text_of(Metrics(model="m", scheme="w8a8", qat=QATQuality(loss=1.0, perplexity=2.718)))
    assert row(text, "QAT") == ["1.0000", "2.718", "-", "-", "-", "-"]
    assert "exports" not in text


def test_without_a_tuned_float_the_change_is_against_the_float():
    base, qat = Quality(loss=0.69, perplexity=2.0), QATQuality(loss=1.1, perplexity=3.0)
    text = text_of(Metrics(model="m", scheme="s", base=base, qat=qat))
    assert row(text, "QAT")[2] == "+50.00%"
    assert "Δ ppl: against the float" in text


def test_a_float_alone_is_compared_with_nothing():
    text = text_of(Metrics(model="m", scheme="float", base=Quality(loss=0.69, perplexity=2.0)))
    assert row(text, "float ") == ["0.6900", "2.000", "-", "-", "-", "-"]
    assert "against" not in text


def test_without_a_scored_model_there_is_no_table_of_models():
    text = text_of(Metrics(model="m", scheme="w8a8", exports=FULL.exports))
    assert "compressed_tensors" in text
    assert "model" not in text


def test_an_encoder_shows_its_own_measures():
    text = text_of(Metrics(model="minilm", scheme="w8a8", qat=QATQuality(cosine=0.99912, mse=1.2e-5)))
    assert "cosine" in text
    assert "ppl" not in text
    assert row(text, "QAT") == ["0.99912", "1.2e-05", "-"]


def test_models_of_which_only_the_size_is_known_are_no_table_of_scores():
    text = text_of(Metrics(model="m", scheme="w8a8", ptq={"rtn": Quality(bytes=5, of="base")}, exports=FULL.exports))
    assert "compressed_tensors" in text
    assert "PTQ" not in text
