"""Rule 3: size of the weights, and context length."""

from __future__ import annotations

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.rules.architecture import MULTIMODAL
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule

TEXT_GB = 200
MULTIMODAL_GB = 100
CONTEXT = 131072
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions")


@rule(
    "bedrock.3.size",
    "Size of the weights",
    f"under {TEXT_GB} GB of a text model, under {MULTIMODAL_GB} GB of a multimodal one",
    sources.IMPORT,
)
def size(rule: Rule, subject: Subject) -> Check:
    kind, limit = ("multimodal", MULTIMODAL_GB) if subject.model_type in MULTIMODAL else ("text", TEXT_GB)
    found = f"{subject.weight_bytes / 1e9:,.3f} GB, {kind}"
    problem = found if subject.weight_bytes >= limit * 10**9 else ""
    return rule.unless(problem, f"import a model of under {limit} GB", found)


@rule("bedrock.3.context", "Context length", f"at most {CONTEXT} tokens, of which {CONTEXT} warns", sources.IMPORT)
def context(rule: Rule, subject: Subject) -> Check:
    held = (section.get(key) for _, section in subject.sections() for key in _CONTEXT_KEYS)
    lengths = [length for length in held if isinstance(length, int)]
    if subject.model_type == "t5":
        return rule.passed("relative positions, without a limit")
    if not lengths:
        return rule.not_run("config.json states no context length", f"write {_CONTEXT_KEYS[0]} into config.json")
    longest = max(lengths)
    found, fix = f"{longest} tokens", f"lower {_CONTEXT_KEYS[0]} in config.json"
    if longest > CONTEXT:
        return rule.failed(found, fix)
    return rule.warned(found, fix) if longest == CONTEXT else rule.passed(found)
