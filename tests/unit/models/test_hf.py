from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import random_llama
from transformers import LlamaForCausalLM

from qat.errors import InputError
from qat.models import hf
from qat.models.loaded import LoadedModel

IDS = torch.arange(2 * 12).view(2, 12) * 41 % 1024
SHARED = Path(__file__).parents[4] / "shared" / "data" / "models"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, drop: str = "", **changes: torch.Tensor) -> None:
    state = load_file(folder / "model.safetensors") | changes
    state.pop(drop, None)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_loads_the_numbers_of_the_file(folder: Path) -> None:
    loaded = hf.load(str(folder))
    in_file = load_file(folder / "model.safetensors")
    assert in_file.keys() == loaded.model.state_dict().keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, in_file[name]), name
    assert (loaded.name, loaded.path, loaded.task, loaded.context) == ("model", str(folder), "causal_lm", 512)
    assert not loaded.model.training
    assert loaded.tokenizer.decode(loaded.tokenizer("def f():\n    pass")["input_ids"]) == "def f():\n    pass"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(folder: Path, dtype: str) -> None:
    model = hf.load(str(folder), dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_the_dtype_of_the_files_is_known_whatever_config_and_memory_say(folder: Path) -> None:
    edit_config(folder, dtype="float16")
    assert hf.load(str(folder), dtype="bfloat16").file_dtype == "float32"
    state = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert hf.load(str(folder)).file_dtype == "bfloat16"
    architecture = {"model_type": "llama"}
    assert hf.load("none", dtype="bfloat16", shrink=True, architecture=architecture).file_dtype == "bfloat16"


def test_agrees_with_plain_transformers(folder: Path) -> None:
    ours = hf.load(str(folder), attention="eager").model
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, theirs(IDS).logits)


def test_gradient_checkpointing_gives_the_same_gradients(folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = hf.load(str(folder), gradient_checkpointing=checkpointing).model.train()
        assert model.is_activation_checkpointing is checkpointing
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append(model.model.layers[0].mlp.down_proj.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", ["stories260K", "babyllama-tok105", "novels-llama"])
def test_real_models_load(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the model folder {SHARED / name}")
    loaded = hf.load(str(SHARED / name))
    logits = loaded.model(loaded.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]).logits
    assert logits.isfinite().all()
    assert loaded.context == {"babyllama-tok105": 256}.get(name, 512)


def test_a_task_can_be_chosen(folder: Path) -> None:
    loaded = hf.load(str(folder), task="encoder")
    assert type(loaded.model).__name__ == "LlamaModel"
    assert loaded.task == "encoder"


def test_head_that_differs_stays_untied(folder: Path) -> None:
    """The config says tied, and the file has both tensors, not equal: the file is right."""
    edit_config(folder, tie_word_embeddings=True)
    model = hf.load(str(folder)).model
    assert torch.equal(model.lm_head.weight, load_file(folder / "model.safetensors")["lm_head.weight"])
    assert model.config.tie_word_embeddings is False


def test_head_absent_from_the_file_is_tied(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    edit_weights(folder, drop="lm_head.weight")
    model = hf.load(str(folder)).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings is True


def test_context_of_roberta_leaves_out_the_padding_positions() -> None:
    loaded = hf.load("r", shrink=True, architecture={"model_type": "roberta", "max_position_embeddings": 514})
    ids = torch.ones(1, loaded.context, dtype=torch.long)
    assert loaded.context == 511  # 512 rows, and padding index 0 takes the first
    loaded.model(ids)
    with pytest.raises((IndexError, RuntimeError)):
        loaded.model(torch.ones(1, loaded.context + 1, dtype=torch.long))


class TestErrors:
    def refuse(self, folder: Path | str, *parts: str, **options: object) -> str:
        with pytest.raises(InputError) as caught:
            hf.load(str(folder), **options)
        message = str(caught.value)
        assert "\n" not in message
        for part in parts:
            assert part in message
        return message

    def test_no_such_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "nothing", "no folder", "nothing", "hub id")

    def test_hub_not_reachable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self.refuse("no-such-owner/no-such-model", "neither a folder nor reachable", "no-such-model")

    def test_file_instead_of_folder(self, folder: Path) -> None:
        self.refuse(folder / "model.safetensors", "is a file", "give the folder")

    def test_no_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        self.refuse(folder, "has no config.json")

    @pytest.mark.parametrize("text", ["{", "[]", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
    def test_malformed_config(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        self.refuse(folder, "config.json is not a JSON object")

    def test_config_with_a_value_of_the_wrong_type(self, folder: Path) -> None:
        edit_config(folder, hidden_size="wide")
        self.refuse(folder, "not a valid llama config", "hidden_size")

    def test_unknown_model_type(self, folder: Path) -> None:
        edit_config(folder, model_type="lama")
        self.refuse(folder, "model_type 'lama' is unknown", "llama")

    def test_code_that_is_not_trusted(self, folder: Path) -> None:
        edit_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.MyConfig"})
        (folder / "mine.py").write_text("raise SystemExit('ran')")
        self.refuse(folder, "Python code of its own", "model.trust_remote_code=true")

    def test_quantized_already(self, folder: Path) -> None:
        edit_config(folder, quantization_config={"quant_method": "gptq"})
        self.refuse(folder, "quantized already (gptq)", "float model")

    def test_other_head(self, folder: Path) -> None:
        edit_config(folder, architectures=["LlamaForSequenceClassification"])
        self.refuse(folder, "LlamaForSequenceClassification", "model.task")

    def test_no_tokenizer(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        self.refuse(folder, "no tokenizer", "model.tokenizer=<folder>")

    def test_damaged_tokenizer(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text('{"version": "1.0"')
        self.refuse(folder, "tokenizer in", "cannot be loaded")

    def test_tokenizer_too_large_for_the_model(self, folder: Path, tmp_path: Path) -> None:
        random_llama(vocab_size=64).save_pretrained(tmp_path / "small")
        self.refuse(tmp_path / "small", "1024 tokens", "only 64", tokenizer=str(folder))

    def test_shape_that_does_not_match(self, folder: Path) -> None:
        edit_config(folder, intermediate_size=192)
        self.refuse(folder, "mlp.down_proj.weight", "[128, 256]", "[128, 192]")

    def test_missing_tensor(self, folder: Path) -> None:
        edit_weights(folder, drop="model.layers.1.mlp.up_proj.weight")
        self.refuse(folder, "no tensor 'model.layers.1.mlp.up_proj.weight'", "LlamaForCausalLM")

    def test_head_that_is_neither_there_nor_tied(self, folder: Path) -> None:
        edit_weights(folder, drop="lm_head.weight")
        self.refuse(folder, "no tensor 'lm_head.weight'")

    def test_layer_beyond_the_config(self, folder: Path) -> None:
        edit_config(folder, num_hidden_layers=1)
        self.refuse(folder, "has a tensor 'model.layers.1.", "and 8 more", "has no place")

    def test_bias_that_the_config_turns_off(self, folder: Path) -> None:
        edit_weights(folder, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(128)})
        self.refuse(folder, "model.layers.0.self_attn.q_proj.bias", "has no place")

    def test_extra_tensors_outside_the_blocks_are_left_out(self, folder: Path) -> None:
        extra = {
            "pooler.weight": torch.ones(1),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(1),
        }
        edit_weights(folder, **extra)
        assert isinstance(hf.load(str(folder)), LoadedModel)

    def test_pickle_weights_only(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        self.refuse(folder, "pickle weights only (pytorch_model.bin)", "save_pretrained")

    def test_unsupported_attention(self) -> None:
        self.refuse("g", "model.attention=eager", shrink=True, architecture={"model_type": "gemma2"})

    def test_misspelt_options(self, folder: Path) -> None:
        self.refuse(folder, "model.attention 'spda'", "did you mean 'sdpa'", attention="spda")
        self.refuse(folder, "model.task 'causal'", "did you mean 'causal_lm'", task="causal")
        self.refuse(folder, "dtype 'bf16'", "bfloat16", dtype="bf16")
