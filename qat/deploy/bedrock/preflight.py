"""All rules of Bedrock Custom Model Import, in order. What each is and who says so: docs/deploy.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qat.deploy.bedrock import parity
from qat.deploy.bedrock.rules import (
    architecture,
    chat_template,
    dialect,
    files,
    index,
    leftovers,
    names,
    role,
    size,
    tensors,
)
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Preflight

if TYPE_CHECKING:
    from qat.deploy.bedrock.target import Bedrock

RULES: tuple[Callable[[Subject], Check], ...] = (
    architecture.architecture,
    architecture.model_class,
    architecture.gpt_oss_region,
    architecture.gpt_oss_stops,
    tensors.dtypes,
    tensors.names,
    tensors.quantization_config,
    size.size,
    size.context,
    index.index,
    index.metadata,
    index.shards,
    files.files,
    files.tokenizer_class,
    files.sentencepiece,
    chat_template.chat_template,
    dialect.rope,
    dialect.dtype,
    parity.logits,
    leftovers.leftovers,
    leftovers.merged,
    leftovers.head,
    leftovers.llama3_rope,
    names.region,
    names.model_name,
    names.job_name,
    names.s3_uri,
    names.role_arn,
    names.kms_key,
    names.options,
    role.trust,
    role.permissions,
    role.key,
)


def preflight(target: Bedrock, folder: Path) -> Preflight:
    """Check ``folder`` with every rule."""
    subject = Subject(folder, target)
    return Preflight(target=target.name, folder=str(folder), checks=tuple(check(subject) for check in RULES))
