"""Rule 7: ``config.json`` as transformers 4.51.3 reads it.

What 4.51.3 then computes is the check of :mod:`qat.deploy.bedrock.parity`.
"""

from __future__ import annotations

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule
from qat.export.transformers_4_51 import VERSION

_KNOWN = frozenset({"rope_theta", "rope_scaling"})
REWRITE = (
    "write it again: qat export run=<run folder> 'export=[dequantized]' "
    "export.dequantized.dialect=transformers_4_51 export.dequantized.dtype=float32"
)
"""What any finished run takes: float32 holds every value of the twin."""


@rule(
    "bedrock.7.rope",
    "Rotary embedding in config.json",
    f"rope_theta and rope_scaling; no rope_parameters, which {VERSION} ignores: it takes a base of its own",
    sources.MEASURED,
)
def rope(rule: Rule, subject: Subject) -> Check:
    unknown = [f"{prefix}rope_parameters" for prefix, section in subject.sections() if "rope_parameters" in section]
    known = [f"{prefix}{key} {section[key]}" for prefix, section in subject.sections() for key in _KNOWN & {*section}]
    return rule.unless(", ".join(unknown), REWRITE, ", ".join(sorted(known)) or "no rotary embedding")


@rule(
    "bedrock.7.dtype",
    "Type of the weights in config.json",
    f"torch_dtype; no dtype, which {VERSION} ignores: it loads in float32",
    sources.MEASURED,
)
def dtype(rule: Rule, subject: Subject) -> Check:
    unknown = [f"{prefix}dtype" for prefix, section in subject.sections() if "dtype" in section]
    held = subject.config.get("torch_dtype")
    problem = ", ".join(unknown) or ("" if held else "no torch_dtype")
    return rule.unless(problem, REWRITE, f"torch_dtype {held}")
