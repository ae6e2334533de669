"""Rule 8: what a training leaves behind, a head that is there, and the one llama3 scaling that the host knows."""

from __future__ import annotations

from fnmatch import fnmatchcase

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject, shorten
from qat.deploy.checks import Check, Rule, rule

FORBIDDEN = ("adapter_*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.tar", "*.tar.*", "*.tgz", "optimizer*", "checkpoint-*")
_ADAPTERS = ("lora_", "base_model.model.")
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_TIED_BY_DEFAULT = ("gpt_bigcode", "t5")
"""Where transformers 4.51.3 ties the head to the embeddings unless ``config.json`` says otherwise."""


@rule("bedrock.8.leftovers", "Leftovers", f"no {', '.join(FORBIDDEN)}", f"{sources.IMPORT}; {sources.SAMPLES}")
def leftovers(rule: Rule, subject: Subject) -> Check:
    held = [name for name in subject.files if any(_is_leftover(part) for part in name.split("/"))]
    return rule.unless(shorten(held), "remove them: an upload takes every file", f"{len(subject.files)} files, none")


@rule("bedrock.8.merged", "Adapters", "LoRA merged into the weights", f"{sources.IMPORT}; {sources.SAMPLES}")
def merged(rule: Rule, subject: Subject) -> Check:
    names = [tensor.name for tensor in subject.tensors if any(part in tensor.name for part in _ADAPTERS)]
    return rule.unless(shorten(names), "merge the adapter (peft: merge_and_unload) and export again", "no adapter")


@rule("bedrock.8.head", "Output head", "lm_head.weight, or tie_word_embeddings true", sources.SAMPLES)
def head(rule: Rule, subject: Subject) -> Check:
    if names := [tensor.name for tensor in subject.tensors if tensor.name.endswith("lm_head.weight")]:
        return rule.passed(names[0])
    if subject.config.get("tie_word_embeddings", subject.model_type in _TIED_BY_DEFAULT):
        return rule.passed("tied to the embeddings")
    return rule.failed(
        "no lm_head.weight, embeddings not tied",
        "save the head with the model, or set tie_word_embeddings: true if it is the embeddings",
    )


@rule(
    "bedrock.8.llama3_rope",
    "Scaling of type llama3",
    ", ".join(f"{key} {value:g}" for key, value in LLAMA3.items()) + ", whatever the file says",
    sources.IMPORT,
)
def llama3_rope(rule: Rule, subject: Subject) -> Check:
    scalings = [
        section[key]
        for _, section in subject.sections()
        for key in ("rope_scaling", "rope_parameters")
        if isinstance(section.get(key), dict) and "llama3" in (section[key].get("rope_type"), section[key].get("type"))
    ]
    if not scalings:
        return rule.passed("none")
    differ = [f"{key} {held.get(key)}" for held in scalings for key, value in LLAMA3.items() if held.get(key) != value]
    fix = "train with the allowed scaling, or deploy elsewhere: the host would compute another model"
    return rule.unless(", ".join(differ), fix, "the host's own")


def _is_leftover(part: str) -> bool:
    return any(fnmatchcase(part.lower(), pattern) for pattern in FORBIDDEN)
