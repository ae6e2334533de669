from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from qat.errors import InputError
from qat.models import hf
from qat.models.loaded import LoadedModel
from qat.models.outputs import tied_groups
from qat.models.save import save_float

Load = Callable[..., LoadedModel]


def test_round_trip_is_bitwise(any_model: LoadedModel, tmp_path: Path) -> None:
    attention = any_model.model.config._attn_implementation
    save_float(any_model, tmp_path / "m")
    loaded = hf.load(str(tmp_path / "m"), attention=attention)
    before, after = any_model.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert tied_groups(loaded.model) == tied_groups(any_model.model)
    assert loaded.task == any_model.task
    assert loaded.tokenizer.get_vocab() == any_model.tokenizer.get_vocab()


def test_plain_transformers_loads_the_folder(shrunk: Load, tmp_path: Path) -> None:
    """GPT-2 is written with Conv1D's orientation, though it is held as linear layers here."""
    loaded = shrunk("gpt2")
    save_float(loaded, tmp_path / "m")
    assert load_file(tmp_path / "m" / "model.safetensors")["transformer.h.0.attn.c_attn.weight"].shape == (
        128,
        384,
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "m")("def f(x):")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, loaded.model(ids).logits, rtol=1e-5, atol=1e-6)


def test_bfloat16_file_of_a_float32_model(shrunk: Load, tmp_path: Path) -> None:
    loaded = shrunk("llama")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    save_float(loaded, tmp_path / "m", dtype="bfloat16")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert "lm_head.weight" not in stored  # tied: written once
    for name, tensor in stored.items():
        assert torch.equal(tensor, before[name].bfloat16()), name
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    assert loaded.model.config.dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


def test_tokenizer_class_is_one_that_every_engine_knows(folder: Path) -> None:
    options = json.loads((folder / "tokenizer_config.json").read_text())
    assert options["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_existing_folder_is_refused_and_kept(shrunk: Load, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        save_float(shrunk("llama"), tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"]
    assert os.listdir(tmp_path / "m") == ["mine.txt"]


def test_nothing_is_left_after_a_failure(shrunk: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qat.models.save.save_tokenizer", fail)
    with pytest.raises(OSError, match="No space left"):
        save_float(shrunk("llama"), tmp_path / "m")
    assert os.listdir(tmp_path) == []
