"""``qat run`` from its first word to its summary, and what the other commands make of its folder."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support import copy_tokenizer, rows
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

pytestmark = pytest.mark.slow

Qat = Any
Contents = Callable[[Path], dict[str, bytes]]
QUALITY = {"loss", "perplexity", "top1_agreement", "kl", "bytes"}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def losses(run: Path) -> list[float]:
    return [float(row["train/loss"]) for row in rows(run)]


@pytest.fixture(scope="module")
def words(text_words: list[str], qat: Qat) -> list[str]:
    """The embedded Llama, untrained, for four steps."""
    return [
        *("model.pretrained=false", *text_words, *qat.one_thread),
        *("trainer.max_steps=4", "trainer.block_size=64", "trainer.batch_size=2", "trainer.log_every=1"),
        *("trainer.val_every=2", "trainer.val_blocks=2", "evaluate.blocks=4"),
    ]


@pytest.fixture(scope="module")
def place(qat: Qat, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run that compares with a tuned float, and what the run printed."""
    folder = tmp_path_factory.mktemp("place")
    extra = ["baseline.tuned_float=true", "evaluate.generate=true", "evaluate.max_new_tokens=4"]
    outcome = qat.process("run", *words, *extra, cwd=folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome.out


@pytest.fixture(scope="module")
def finished(place: tuple[Path, str]) -> Path:
    """The run folder."""
    (run,) = [path for path in (place[0] / "outputs" / "tiny_llama").iterdir() if not path.is_symlink()]
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run folder to work on."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_folder_of_a_run(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *(".hydra", "checkpoints", "quantized", "exports", "tuned_float"),
        *("metrics.json", "metrics.csv", "prepare.json", "schedule.json", "training.json"),
    }
    assert (finished.parent / "latest").is_symlink()
    assert os.readlink(finished.parent / "latest") == finished.name
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert {path.name for path in (finished / ".hydra").iterdir()} == {"config.yaml", "overrides.yaml"}
    for folder in ("quantized", "exports/compressed_tensors", "tuned_float/model"):
        names = {path.name for path in (finished / folder).iterdir()}
        assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert [path for path in finished.rglob("*") if path.name.endswith(".tmp")] == []


def test_metrics_json(finished: Path) -> None:
    found = read(finished / "metrics.json")
    assert (found["recipe"], found["model"], found["scheme"]) == (None, "tiny_llama", "w4a16_g32")
    for quality in (found["float"], found["tuned_float"], found["ptq"]["rtn"], found["qat"]):
        assert quality.keys() >= QUALITY
        assert quality["perplexity"] == pytest.approx(math.exp(quality["loss"]))
        assert quality["bytes"] > 0
    for quality in (found["tuned_float"], found["ptq"]["rtn"], found["qat"]):
        assert 0 < quality["top1_agreement"] < 1
        assert quality["kl"] > 0
    assert found["qat"]["bytes"] == found["ptq"]["rtn"]["bytes"] < found["float"]["bytes"]

    tuned, rtn, trained = found["tuned_float"]["loss"], found["ptq"]["rtn"]["loss"], found["qat"]["loss"]
    assert tuned < found["float"]["loss"]
    assert found["qat"]["recovery_against"] == found["ptq"]["rtn"]["of"] == "tuned_float"
    if found["qat"]["recovery"]["rtn"] is None:
        assert found["qat"]["recovery_undefined"]["rtn"]
    else:
        assert found["qat"]["recovery"]["rtn"] == pytest.approx((rtn - trained) / (rtn - tuned))

    export = found["exports"]["compressed_tensors"]
    assert export["tensors"] == 21
    assert (export["mismatched_codes"], export["mismatched_scales"], export["mismatched_zero_points"]) == (0, 0, 0)
    assert export["engine"].startswith("transformers ")
    assert export["perplexity"] == pytest.approx(found["qat"]["perplexity"], rel=1e-4)
    assert export["max_logit_difference"] <= 1e-4
    files = [path for path in (finished / "exports" / "compressed_tensors").iterdir() if path.is_file()]
    assert export["bytes"] == sum(path.stat().st_size for path in files)

    assert found["train"]["steps"] == 4
    assert found["train"]["tokens"] == 4 * 2 * 64
    assert all(found["train"][key] > 0 for key in ("tokens_per_second", "peak_memory_bytes", "seconds"))
    assert {sample["prompt"] for sample in found["samples"]} == {"def ", "import "}
    assert set(found["samples"][0]["continuations"]) == {"float", "tuned_float", "ptq.rtn", "qat"}
    assert found["environment"]["python"]
    assert found["data"]["corpus_sha256"]


def test_the_screen_shows_what_was_done_and_what_came_out(place: tuple[Path, str], finished: Path) -> None:
    screen = place[1]
    for part in ("21 modules quantized", "Precision schedule", "tuned float", "PTQ rtn (tuned)", "QAT", "recovery"):
        assert part in screen, screen
    assert "compressed_tensors" in screen
    assert str(finished.relative_to(place[0])) in screen.replace("\n", "")


def test_the_files_are_integers_on_disk(finished: Path) -> None:
    folder = finished / "exports" / "compressed_tensors"
    config = read(folder / "config.json")["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("model.layers.0.mlp.up_proj.weight_packed").dtype == torch.int32
        assert "model.layers.0.mlp.up_proj.weight" not in file.keys()  # noqa: SIM118


def test_export_writes_the_same_files_again(qat: Qat, run: Path, contents: Contents) -> None:
    exports = run / "exports"
    before = contents(exports)
    shutil.rmtree(exports)
    outcome = qat("export", f"run={run}", cwd=run.parent)
    assert outcome.code == 0
    assert str(exports / "compressed_tensors") in outcome.out.replace("\n", "")
    assert contents(exports) == before


def test_evaluate_finds_the_same_losses(qat: Qat, run: Path, contents: Contents) -> None:
    before = contents(run)
    assert qat("evaluate", f"run={run}", cwd=run.parent).code == 0
    after = contents(run)
    found = json.loads(after.pop("evaluate.json"))
    assert after == before
    for key in ("float", "qat"):
        assert found[key]["loss"] == read(run / "metrics.json")[key]["loss"]


def test_validate_finds_the_same_exports(qat: Qat, run: Path) -> None:
    before = read(run / "metrics.json")
    outcome = qat("validate", f"run={run}", cwd=run.parent)
    assert outcome.code == 0
    assert "compressed_tensors" in outcome.out
    assert read(run / "metrics.json") == before


def test_without_a_tuned_float_the_recovery_is_against_the_base_and_says_so(
    qat: Qat, words: list[str], tmp_path: Path
) -> None:
    outcome = qat("run", *words, "run_dir=run", cwd=tmp_path)
    assert outcome.code == 0
    found = read(tmp_path / "run" / "metrics.json")
    assert found["tuned_float"] is None
    assert found["qat"]["recovery_against"] == found["ptq"]["rtn"]["of"] == "base"
    assert not (tmp_path / "run" / "tuned_float").exists()
    assert "tuned" not in outcome.out
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("recovery")]
    assert line.startswith("recovery against PTQ rtn of float: ")


def test_offline_wandb_keeps_the_run_and_the_export(qat: Qat, small: list[str], tmp_path: Path) -> None:
    outcome = qat.process("run", *small, "logger=wandb", "run_dir=run", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    content = b"".join(path.read_bytes() for path in files)
    for part in ("train/loss", "phase", "bits", "sqnr", "range_drift"):
        assert part.encode() in content
    for part in ("hf-compressed_tensors", "model.safetensors", "config.json"):  # the artifact and its files
        assert part.encode() in content
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_tensorboard_has_the_losses(qat: Qat, small: list[str], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert qat("train", *small, "logger=tensorboard", "run_dir=run", cwd=tmp_path).code == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    found = [event.value for event in events.Scalars("train/loss")]
    assert found == pytest.approx(losses(tmp_path / "run"))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(qat: Qat, small: list[str], tmp_path: Path, precision: str) -> None:
    outcome = qat("run", *small, f"trainer.precision={precision}", "run_dir=run", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert qat("train", *small, "run_dir=full", cwd=tmp_path).code == 0
    narrow, full = losses(tmp_path / "run"), losses(tmp_path / "full")
    assert narrow != full
    assert narrow == pytest.approx(full, rel=0.01)
    export = read(tmp_path / "run" / "metrics.json")["exports"]["compressed_tensors"]
    assert (export["mismatched_codes"], export["mismatched_scales"]) == (0, 0)


@pytest.fixture(scope="module")
def bert(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: a random BERT with a head for masked words, and a tokenizer of the text's words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    splitter = pre_tokenizers.BertPreTokenizer()
    found = {word for word, _ in splitter.pre_tokenize_str(text.read_text())}
    vocabulary = {word: index for index, word in enumerate([*special, *sorted(found)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "bert"
    BertForMaskedLM(config).save_pretrained(folder)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, special, strict=True)))
    fast.save_pretrained(folder)
    return folder


def test_a_masked_language_model(qat: Qat, bert: Path, small: list[str], tmp_path: Path) -> None:
    extra = ["trainer.val_every=2", "trainer.val_blocks=2", "baseline.tuned_float=true"]
    outcome = qat("run", *small, f"model.path={bert}", *extra, "run_dir=run", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    found = read(tmp_path / "run" / "metrics.json")
    assert found["float"]["loss"] == pytest.approx(math.log(BertConfig.from_pretrained(bert).vocab_size), rel=0.1)
    export = found["exports"]["compressed_tensors"]
    assert export["tensors"] >= 12
    assert (export["mismatched_codes"], export["mismatched_scales"]) == (0, 0)
    assert export["loss"] == pytest.approx(found["qat"]["loss"], rel=1e-4)
    assert export["max_logit_difference"] <= 1e-4


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: a random GPT-2, whose layers are ``Conv1D``, and tiny_llama's tokenizer."""
    config = GPT2Config(vocab_size=1024, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    copy_tokenizer(folder)
    return folder


def test_gpt2_cannot_be_exported_and_that_is_said_before_the_training(
    qat: Qat, gpt2: Path, small: list[str], tmp_path: Path
) -> None:
    message = qat("run", *small, f"model.path={gpt2}", "run_dir=run", cwd=tmp_path).error()
    assert "Conv1D" in message
    assert list(tmp_path.iterdir()) == []


def test_gpt2_is_trained_without_an_export(qat: Qat, gpt2: Path, small: list[str], tmp_path: Path) -> None:
    outcome = qat("run", *small, f"model.path={gpt2}", "export=[]", "run_dir=run", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    found = read(tmp_path / "run" / "metrics.json")
    assert found["exports"] == {}
    assert found["qat"]["bytes"] < found["float"]["bytes"]
    message = qat("export", "run=run", "export=[compressed_tensors]", cwd=tmp_path).error()
    assert "Conv1D" in message
    assert not (tmp_path / "run" / "exports").exists()
