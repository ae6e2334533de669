"""Rule 1: architectures that Bedrock imports."""

from __future__ import annotations

from typing import Any

from qat.checkpoint import GENERATION
from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule
from qat.errors import nearest

MODEL_TYPES = (
    "mistral",
    "mixtral",
    "t5",
    "llama",
    "mllama",
    "gpt_bigcode",
    "qwen2",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3",
    "qwen3_moe",
    "gpt_oss",
)
MULTIMODAL = ("mllama", "qwen2_vl", "qwen2_5_vl")
QWEN3_CLASSES = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
GPT_OSS_REGION = "us-east-1"
GPT_OSS_STOPS = (200002, 199999, 200012)
_GPT_OSS = "gpt_oss"


@rule("bedrock.1.architecture", "model_type of config.json", ", ".join(MODEL_TYPES), sources.IMPORT)
def architecture(rule: Rule, subject: Subject) -> Check:
    kind = subject.config.get("model_type")
    if kind in MODEL_TYPES:
        return rule.passed(str(kind))
    hint = nearest(str(kind), MODEL_TYPES)
    return rule.failed(f"model_type {kind}", f"train one of the allowed architectures{hint}, or deploy elsewhere")


@rule(
    "bedrock.1.class",
    "architectures of config.json",
    f"one class; of Qwen3 only {' or '.join(QWEN3_CLASSES)}",
    sources.IMPORT,
)
def model_class(rule: Rule, subject: Subject) -> Check:
    classes = subject.config.get("architectures") or []
    if len(classes) != 1:
        return rule.failed(f"{len(classes)} classes", "name the one class of the model in architectures")
    if subject.model_type.startswith("qwen3") and classes[0] not in QWEN3_CLASSES:
        return rule.failed(classes[0], f"import the causal language model ({' or '.join(QWEN3_CLASSES)})")
    return rule.passed(classes[0])


@rule("bedrock.1.gpt_oss_region", "Region of GPT-OSS", GPT_OSS_REGION, sources.IMPORT)
def gpt_oss_region(rule: Rule, subject: Subject) -> Check:
    if subject.model_type != _GPT_OSS:
        return rule.passed(_other(subject))
    region = subject.target.region
    return rule.unless(region if region != GPT_OSS_REGION else "", f"target.region={GPT_OSS_REGION}", region)


@rule("bedrock.1.gpt_oss_stops", "Stop tokens of GPT-OSS", f"eos_token_id {list(GPT_OSS_STOPS)}", sources.INVOKE)
def gpt_oss_stops(rule: Rule, subject: Subject) -> Check:
    if subject.model_type != _GPT_OSS:
        return rule.passed(_other(subject))
    stops = _stops(subject)
    found = f"eos_token_id {stops}"
    problem = found if not isinstance(stops, list) or sorted(stops) != sorted(GPT_OSS_STOPS) else ""
    return rule.unless(problem, "write the three into generation_config.json", found)


def _stops(subject: Subject) -> Any:
    """Of ``generation_config.json``, which is what generates; else of ``config.json``."""
    values = subject.json(GENERATION) if GENERATION in subject.files else subject.config
    return values.get("eos_token_id")


def _other(subject: Subject) -> str:
    return f"does not apply to {subject.model_type}"
