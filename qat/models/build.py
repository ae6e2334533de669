"""Make a transformers model of the right class from a config: fresh, or empty to be filled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, get_args

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import logging

from qat.errors import InputError, nearest
from qat.models import conv1d
from qat.models.loaded import Attention, Dtype, Task

AUTO_CLASSES: dict[Task, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "encoder": AutoModel,
}


def detect_task(config: PreTrainedConfig) -> Task:
    """The task of the class that a config names, or, if it names none, of its model type.

    Raises:
        InputError: if the class has another head (a classifier, ...) or is an encoder-decoder.
    """
    if config.is_encoder_decoder:
        raise InputError(f"a {config.model_type} is an encoder-decoder; give a causal LM, masked LM or encoder")
    if not config.architectures:
        return _task_of_type(config)
    name = config.architectures[0]
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or name.endswith("ForCausalLM"):
        return "causal_lm"
    if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() or name.endswith("ForMaskedLM"):
        return "masked_lm"
    if name in MODEL_MAPPING_NAMES.values() or name.endswith("Model"):
        return "encoder"
    raise InputError(
        f"{name} is not a causal LM, a masked LM or an encoder; "
        "set model.task to one of causal_lm, masked_lm, encoder to load it as such"
    )


def _task_of_type(config: PreTrainedConfig) -> Task:
    """Masked first: BERT is in both tables, a decoder in the causal one only."""
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return "masked_lm"
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "causal_lm"
    if type(config) in MODEL_MAPPING:
        return "encoder"
    raise InputError(f"transformers has no causal LM, masked LM or encoder for model type '{config.model_type}'")


def torch_dtype(name: str) -> torch.dtype:
    """``"bfloat16"`` -> ``torch.bfloat16``.

    Raises:
        InputError: for a dtype that models are not loaded in.
    """
    if name not in get_args(Dtype):
        raise InputError(f"dtype '{name}' is not one of {', '.join(get_args(Dtype))}{nearest(name, get_args(Dtype))}")
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def initialise(
    config: PreTrainedConfig,
    task: Task,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    seed: int = 0,
) -> PreTrainedModel:
    """A freshly initialised model in evaluation mode; the global random state is left as it was.

    The weights are drawn in float32 and then rounded, so that every dtype starts from the same numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _construct(config, task, "float32", attention)
    for parameter in model.parameters():  # not `model.to`: the rotary frequencies are buffers that stay float32
        parameter.data = parameter.data.to(torch_dtype(dtype))
    model.config.dtype = torch_dtype(dtype)
    conv1d.to_linear(model)
    model.eval()
    return model


def from_config(
    config: dict[str, Any],
    task: Task,
    dtype: Dtype = "float32",
    attention: Attention | None = None,
) -> PreTrainedModel:
    """A model of the class that a saved ``config.json`` describes, all parameters zero, to be filled.

    Built as ``hf.load`` leaves a model: evaluation mode, ``Conv1D`` swapped for ``nn.Linear``, weights tied.

    Args:
        config: the content of ``config.json``.
        task: which head; ``config["architectures"]`` is not consulted.
        dtype: of the parameters.
        attention: transformers' attention implementation; None takes sdpa where the architecture has it.

    Raises:
        InputError: if the model type is unknown to transformers.
    """
    with no_init_weights():
        model = _construct(config_from_dict(config), task, dtype, attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.tie_weights()
    conv1d.to_linear(model)
    model.eval()
    return model


def on_meta(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    """A float32 model in evaluation mode on the meta device: all modules and ties, no numbers, no memory."""
    with torch.device("meta"):
        model = _construct(config, task, "float32", None)
    return model.eval()


def config_from_dict(values: dict[str, Any]) -> PreTrainedConfig:
    """The config object of a ``config.json``.

    Raises:
        InputError: if ``model_type`` is missing or unknown, or a value is not valid for it.
    """
    kind = values.get("model_type")
    if kind is None:
        raise InputError("the model's config has no model_type; add one, for example model_type: llama")
    if kind not in CONFIG_MAPPING:
        raise InputError(f"model_type '{kind}' is unknown to transformers{nearest(str(kind), CONFIG_MAPPING.keys())}")
    try:
        config = CONFIG_MAPPING[kind].from_dict(dict(values))
    except Exception as error:  # the strict config classes raise types of their own
        raise InputError(f"not a valid {kind} config: {' '.join(str(error).split())}") from error
    assert isinstance(config, PreTrainedConfig)
    return config


def _construct(config: PreTrainedConfig, task: Task, dtype: Dtype, attention: Attention | None) -> PreTrainedModel:
    try:
        with quiet():
            model = AUTO_CLASSES[task].from_config(
                config, dtype=torch_dtype(dtype), attn_implementation=attention, trust_remote_code=False
            )
    except (ImportError, ValueError, KeyError) as error:
        raise InputError(f"transformers cannot build a {config.model_type} as {task}: {reason(error)}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def reason(error: Exception) -> str:
    """transformers' message in one line, with qat's own word for the way out where it names one."""
    first = str(error).strip().split("\n")[0]
    if "does not support an attention implementation" in first:
        return first.split(" yet.")[0] + "; set model.attention=eager"
    return first


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back transformers' tables, warnings and bars where qat reports the same in one line."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
