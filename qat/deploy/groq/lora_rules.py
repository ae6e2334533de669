"""The rules of an adapter for GroqCloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from qat.deploy.checks import Check, Rule, rule
from qat.deploy.groq import sources
from qat.deploy.groq.adapter import CONFIG, WEIGHTS, Adapter, read
from qat.errors import InputError

RANKS = (8, 16, 32, 64)
ENDED = {"llama-3.1-8b-instant": "2026-08-16"}
"""Base models that were announced to end, and when. The first was the only one that was ever listed for adapters."""
_PARTS = ("lora_A", "lora_B")
_MORE = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "target_parameters")
_NAMED = 3


@dataclass(frozen=True)
class Subject:
    """An adapter, and what it was trained on."""

    adapter: Adapter
    base_model: str | None


@rule("groq.L1.files", "Files of the zip", f"exactly {WEIGHTS} and {CONFIG}, at its root", sources.LORA)
def files(rule: Rule, subject: Subject) -> Check:
    """No folder, no third file."""
    found = sorted(subject.adapter.files)
    problem = "" if found == sorted((WEIGHTS, CONFIG)) else ", ".join(found)
    return rule.unless(problem, "let qat make the zip: action=prepare with adapter=<peft folder>", ", ".join(found))


@rule("groq.L2.rank", "Rank", f"r one of {', '.join(map(str, RANKS))}", sources.LORA)
def rank(rule: Rule, subject: Subject) -> Check:
    """Also that of every module with a rank of its own."""
    ranks = [subject.adapter.config.get("r"), *(subject.adapter.config.get("rank_pattern") or {}).values()]
    wrong = [value for value in ranks if value not in RANKS or isinstance(value, bool)]
    problem = f"r is {', '.join(map(str, wrong))}" if wrong else ""
    return rule.unless(problem, "train the adapter with one of these ranks", f"r is {ranks[0]}")


@rule("groq.L3.config", "Configuration", "a LoRA adapter with r and lora_alpha", sources.LORA)
def config(rule: Rule, subject: Subject) -> Check:
    """``peft_type`` is peft's own field."""
    held = subject.adapter.config
    lacks = [name for name in ("r", "lora_alpha") if not isinstance(held.get(name), (int, float))]
    kind = held.get("peft_type", "LORA")
    problem = f"peft_type is {kind}" if kind != "LORA" else f"{CONFIG} lacks {', '.join(lacks)}" if lacks else ""
    return rule.unless(problem, "train with peft's LoraConfig", f"lora_alpha is {held.get('lora_alpha')}")


@rule("groq.L4.dtype", "Type of the weights", "float16", sources.LORA)
def dtype(rule: Rule, subject: Subject) -> Check:
    """Every tensor."""
    found = {str(tensor.dtype).removeprefix("torch.") for tensor in subject.adapter.tensors.values()}
    problem = "" if found == {"float16"} else ", ".join(sorted(found)) or "no tensor"
    return rule.unless(problem, "let qat convert them: action=prepare with adapter=<peft folder>", "float16")


@rule("groq.L5.values", "Values of the weights", "finite", sources.POLICY)
def values(rule: Rule, subject: Subject) -> Check:
    """What overflowed float16 on the way is infinite."""
    wrong = [name for name, tensor in subject.adapter.tensors.items() if not tensor.isfinite().all()]
    return rule.unless(_some(wrong), "train with a smaller lora_alpha or learning rate", "all finite")


@rule("groq.L6.tensors", "Names and shapes", "pairs of lora_A [r, in] and lora_B [out, r]", sources.POLICY)
def tensors(rule: Rule, subject: Subject) -> Check:
    """Whatever else an adapter holds, such as whole modules or magnitudes, is no LoRA."""
    wrong = [*_wrong(subject.adapter.tensors)]
    pairs = len(subject.adapter.tensors) // 2
    return rule.unless(_some(wrong), "train with peft's LoraConfig and its defaults", f"{pairs} pairs")


@rule("groq.L7.kind", "Kind of LoRA", "plain LoRA", sources.POLICY)
def kind(rule: Rule, subject: Subject) -> Check:
    """Options of peft of which no page of Groq speaks."""
    held = subject.adapter.config
    more = [name for name in _MORE if held.get(name)] + (["bias"] if held.get("bias", "none") != "none" else [])
    if more:
        return rule.warned(f"uses {', '.join(more)}", "train without it, or ask Groq whether it is taken")
    return rule.passed("no option beyond it")


@rule("groq.L8.base", "Base model", "one that your account at Groq lists for adapters", sources.LORA)
def base(rule: Rule, subject: Subject) -> Check:
    """No page lists one that is still served, so the user must know."""
    given = subject.base_model
    if given is None:
        names = ", ".join(ENDED)
        found = f"no base_model; the one that was listed, {names}, was announced to end on {ENDED[names]}"
        return rule.not_run(found, "ask Groq which base takes adapters and set target.base_model=<its name>")
    if given in ENDED:
        found = f"{given}, announced to end on {ENDED[given]}"
        return rule.warned(found, "ask Groq which base takes adapters now and set target.base_model=<its name>")
    return rule.warned(f"{given}; this cannot be checked from here", "make sure that the adapter was trained on it")


READABLE = Rule("groq.L0.adapter", "Adapter", "adapter.zip, or a folder that peft wrote", sources.LORA)
RULES: tuple[Callable[[Subject], Check], ...] = (files, rank, config, dtype, values, tensors, kind, base)


def check(place: Path, base_model: str | None) -> tuple[Check, ...]:
    """Every rule on the adapter in ``place``; one that cannot be read fails the first."""
    try:
        subject = Subject(read(place), base_model)
    except InputError as error:
        return (READABLE.failed(str(error), "make it anew: action=prepare with target.adapter=<peft folder>"),)
    return (READABLE.passed(str(place)), *(check(subject) for check in RULES))


def _wrong(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        place = next((place for place, part in enumerate(_PARTS) if f".{part}." in name), None)
        if place is None:
            yield name
            continue
        other = tensors.get(name.replace(f".{_PARTS[place]}.", f".{_PARTS[1 - place]}."))
        if other is None or tensor.ndim != 2 or other.ndim != 2:
            yield name
        elif tensor.shape[place] != other.shape[1 - place]:
            yield f"{name} {list(tensor.shape)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
