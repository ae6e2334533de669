"""Rule 2: 16-bit weights, and nothing of a quantized file."""

from __future__ import annotations

from collections import Counter

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject, shorten
from qat.deploy.checks import Check, Rule, rule
from qat.export.folder import CONFIG_KEY

DTYPES = ("F16", "BF16")
QUANTIZED_ENDINGS = ("_scale", "_packed", "_zero_point", "qweight", "qzeros", "g_idx")
_TWIN = "import the 16-bit twin: qat deploy target=bedrock run=<run folder>"


@rule("bedrock.2.dtypes", "Types of the tensors", "F16 or BF16 (F32 warns: it is twice the size)", sources.POLICY)
def dtypes(rule: Rule, subject: Subject) -> Check:
    counts = Counter(tensor.dtype for tensor in subject.tensors)
    found = ", ".join(f"{number} {dtype}" for dtype, number in sorted(counts.items()))
    others = [f"{t.name} ({t.dtype})" for t in subject.tensors if t.dtype not in (*DTYPES, "F32")]
    if others:
        return rule.failed(f"{found}: {shorten(others)}", _TWIN)
    if counts["F32"]:
        return rule.warned(found, "export with export.dequantized.dtype=float16 or bfloat16")
    return rule.passed(found)


@rule(
    "bedrock.2.names",
    "Names of the tensors",
    f"no name that ends in {', '.join(QUANTIZED_ENDINGS)}",
    sources.POLICY,
)
def names(rule: Rule, subject: Subject) -> Check:
    quantized = [tensor.name for tensor in subject.tensors if tensor.name.endswith(QUANTIZED_ENDINGS)]
    return rule.unless(shorten(quantized), _TWIN, f"{len(subject.tensors)} names of float weights")


@rule("bedrock.2.config", "Quantization in config.json", f"no {CONFIG_KEY}", sources.POLICY)
def quantization_config(rule: Rule, subject: Subject) -> Check:
    held = [f"{prefix}{CONFIG_KEY}" for prefix, section in subject.sections() if section.get(CONFIG_KEY) is not None]
    return rule.unless(shorten(held), _TWIN, "none")
