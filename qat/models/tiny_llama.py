"""The model that ships with the package: a 0.72M-parameter Llama that writes Python.

Small enough to train for minutes on two cores, and a Llama in every part that quantization meets:
grouped-query attention, a gated MLP, RMS norms, rotary positions and tied embeddings. Its hidden sizes are
multiples of 128, so that every preset's group size divides them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from qat import paths
from qat.errors import InputError
from qat.models import build, hf
from qat.models.files import WEIGHTS
from qat.models.loaded import Attention, Dtype, LoadedModel, enable_gradient_checkpointing
from qat.models.tokenizer import load_tokenizer

VOCABULARY = 1024
CONTEXT = 512
END_OF_TEXT = "<|endoftext|>"

# Qwen2's split (https://huggingface.co/Qwen/Qwen2-7B/blob/main/tokenizer.json): it groups indentation and
# line ends, keeps digits single, and engines that only know published splits have it. The contractions of
# English ('s, 't, ...) are part of it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def directory() -> Path:
    """Folder of the shipped weights, config and tokenizer."""
    return paths.assets_dir() / "tiny_llama"


def config() -> LlamaConfig:
    """The architecture; the numbers are the model's, not options."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def load(
    pretrained: bool = True,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> LoadedModel:
    """Load the embedded model, or a fresh one of the same architecture.

    Args:
        pretrained: False gives freshly initialised weights, to train the base anew.
        dtype: dtype of the weights in memory (they are shipped in bfloat16).
        attention: transformers' attention implementation.
        gradient_checkpointing: trade time for memory in the backward pass.
        seed: of the fresh weights; the global random state is left as it was.

    Raises:
        InputError: if the trained weights are asked for and not there.
    """
    folder = directory()
    if pretrained:
        if not (folder / WEIGHTS).is_file():
            raise InputError(
                f"the trained weights of tiny_llama are not in {folder}; rebuild them with: qat train recipe=demo/base"
            )
        loaded = hf.load(str(folder), dtype, attention, gradient_checkpointing)
        loaded.name = "tiny_llama"
        return loaded
    model = build.initialise(config(), "causal_lm", dtype, attention, seed)
    if gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return LoadedModel(model, load_tokenizer(str(folder)), "tiny_llama", str(folder), "causal_lm", CONTEXT, dtype)


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE: any text round-trips, and the same texts give the same tokenizer.

    ``<|endoftext|>`` (id 0) ends a document and pads; the tokenizer adds no special token by itself.

    Args:
        texts: the training documents.
        vocabulary: number of tokens, the 256 bytes and the special token included.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
