"""The check that counts of rule 7: equal logits under transformers 4.51.3, which Bedrock loads models with.

A Llama with a rotary base of 500000, saved by transformers 5, loads in 4.51.3 without an error and with a base of
10000: logits differ by up to 11.9. So the folder is loaded in both, each in a process of its own and one after the
other, and asked the same tokens.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule
from qat.engines.isolated import Isolated
from qat.errors import InputError, RunError

LIMIT = 1e-4
"""Largest difference of a logit in float32."""
BLOCKS = 4
LENGTH = 64
"""Tokens of a block, or the model's context if that is shorter."""
_THERE = {"_target_": "qat.engines.transformers_4_51.Transformers451Engine"}
_HERE = {"_target_": "qat.engines.transformers.TransformersEngine"}
_SEED = 0


@rule(
    "bedrock.7.logits",
    "Logits under transformers 4.51.3",
    f"within {LIMIT:g} of those under transformers 5, in float32",
    sources.MEASURED,
)
def logits(rule: Rule, subject: Subject) -> Check:
    if (reason := _cannot_run(subject)) is not None:
        return rule.not_run(*reason)
    tokens = _tokens(subject)
    try:
        there, wanted = _answer(_THERE, subject, tokens), _answer(_HERE, subject, tokens)
    except InputError as error:
        return rule.failed(str(error), "write the folder again: qat deploy target=bedrock run=<run folder>")
    except RunError as error:  # a crash or a time limit: of the machine as likely as of the folder
        return rule.not_run(str(error), "try again on a larger machine")
    if there.shape != wanted.shape:
        return rule.failed(f"shapes {list(there.shape)} and {list(wanted.shape)}", "correct config.json")
    difference = (there - wanted).abs().max().item()
    same = (there.argmax(-1) == wanted.argmax(-1)).double().mean().item()
    found = f"largest difference {difference:.2g}, top-1 agreement {same:.1%}, {tokens.numel()} tokens"
    # A NaN is no difference that one could compare.
    return rule.unless("" if difference <= LIMIT else found, "export with dialect: transformers_4_51", found)


def _cannot_run(subject: Subject) -> tuple[str, str] | None:
    """Why the folder cannot be tried on this machine, and the fix."""
    if not subject.target.parity:
        return "switched off", "target.parity=true"
    classes = subject.config.get("architectures") or [""]
    if not str(classes[0]).endswith(("ForCausalLM", "LMHeadModel")):
        return f"{classes[0] or 'this'} is no causal language model", "compare its logits by hand in 4.51.3"
    if (absent := Isolated(_THERE).missing()) is not None:
        reason, _, fix = absent.rpartition(": ")
        return f"transformers 4.51.3: {reason}", fix
    needed, there = _float32_bytes(subject), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        return f"float32 weights of {needed / 1e9:.0f} GB, memory of {there / 1e9:.0f} GB", "check on a larger machine"
    return None


def _float32_bytes(subject: Subject) -> int:
    return 4 * sum(torch.Size(tensor.shape).numel() for tensor in subject.tensors)


def _tokens(subject: Subject) -> Tensor:
    """int64[blocks, length], the same at every call.

    Raises:
        InputError: ``config.json`` names no vocabulary.
    """
    vocabulary = subject.config.get("vocab_size")
    if not isinstance(vocabulary, int) or vocabulary < 1:
        raise InputError(f"config.json states no vocab_size of 1 or more: {vocabulary}")
    context = subject.config.get("max_position_embeddings") or subject.config.get("n_positions") or LENGTH
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, vocabulary, (BLOCKS, min(LENGTH, context)), generator=generator)


def _answer(engine: dict[str, Any], subject: Subject, tokens: Tensor) -> Tensor:
    with Isolated(engine) as isolated:
        isolated.load(subject.folder)
        return isolated.logits(tokens)
