"""A tokenizer that an export cannot carry is refused before anything slow begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import random_llama
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qat.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture
def words(tmp_path: Path, text_words: list[str]) -> list[str]:
    """A model whose tokenizer splits by a pattern that llama.cpp does not know."""
    vocab = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    own = pre_tokenizers.Split(Regex("[a-z]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([own, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    random_llama(vocab_size=256, max_position_embeddings=128).save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "model")
    small = ["trainer.block_size=32", "trainer.device=cpu", "trainer.max_steps=2", "trainer.val_blocks=2", "engine=[]"]
    model = ["model=hf", f"model.path={tmp_path / 'model'}", "scheme=w4a16_g32", "scheme.scale_format=fp16"]
    return [*model, *text_words, *small, "evaluate.blocks=2", "export=gguf", f"run_dir={tmp_path / 'run'}"]


@pytest.mark.parametrize("command", ["run", "ptq", "ptq stream=true"])
def test_a_tokenizer_that_llama_cpp_cannot_follow_is_refused_before_the_first_step(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), *words])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "export gguf: gguf: llama.cpp has no known pre-tokenizer with the patterns" in line
    assert "write a file for token ids only with export.gguf.tokenizer=false" in line
    assert not (tmp_path / "run").exists()


def test_a_file_without_a_tokenizer_needs_none_that_llama_cpp_knows(words: list[str], tmp_path: Path) -> None:
    assert main(["ptq", *words, "export.gguf.tokenizer=false"]) == 0
    assert (tmp_path / "run/exports/gguf/model.gguf").is_file()
