"""Rule 4: the index of the weights."""

from __future__ import annotations

from typing import Any

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject, shorten
from qat.deploy.checks import Check, Rule, rule
from qat.errors import InputError
from qat.tensor_files import INDEX

_REWRITE = "write the folder again: qat deploy target=bedrock run=<run folder>"


@rule("bedrock.4.index", "Index of the weights", f"{INDEX} (a single file without one warns)", sources.BLOG)
def index(rule: Rule, subject: Subject) -> Check:
    if not (subject.folder / INDEX).is_file():
        files = len(subject.weight_files)
        found = f"none, {files} safetensors file{'s' * (files > 1)}"
        return rule.failed(found, _REWRITE) if files > 1 else rule.warned(found, _REWRITE)
    try:
        return rule.passed(f"{len(_map(subject))} tensors")
    except InputError as error:
        return rule.failed(str(error), _REWRITE)


@rule(
    "bedrock.4.metadata",
    "Metadata of the index",
    "total_size alone (total_parameters and other keys are not supported)",
    sources.BLOG,
)
def metadata(rule: Rule, subject: Subject) -> Check:
    held = subject.json(INDEX).get("metadata")
    fix = f'"metadata": {{"total_size": {subject.weight_bytes}}}'
    if not isinstance(held, dict):
        return rule.failed("no metadata", fix)
    if set(held) != {"total_size"}:
        return rule.failed(", ".join(sorted(held)) or "empty", fix)
    found = f"total_size {held['total_size']}"
    if held["total_size"] != subject.weight_bytes:
        return rule.warned(f"{found}, the files hold {subject.weight_bytes} bytes", fix)
    return rule.passed(found)


@rule("bedrock.4.shards", "Files of the index", "every file is there and whole, each tensor in one file", sources.BLOG)
def shards(rule: Rule, subject: Subject) -> Check:
    try:
        files = len(subject.weight_files)
        whole = len(subject.tensors)  # reads the header of every file
        if not (subject.folder / INDEX).is_file():
            return rule.not_run(f"no {INDEX}; {files} files with {whole} tensors", _REWRITE)
        problem = _mismatch(_map(subject), subject)
    except InputError as error:
        return rule.failed(str(error), _REWRITE)
    return rule.unless(problem, _REWRITE, f"{files} of {files} files")


def _map(subject: Subject) -> dict[str, str]:
    """Tensor -> file.

    Raises:
        InputError: there is none.
    """
    held: Any = subject.json(INDEX).get("weight_map")
    if not isinstance(held, dict) or not held or not all(isinstance(file, str) for file in held.values()):
        raise InputError(f"{INDEX} has no weight_map of tensors to files")
    return held


def _mismatch(promised: dict[str, str], subject: Subject) -> str:
    """What the index and the files do not agree on; empty if nothing."""
    if absent := sorted(set(promised.values()) - set(subject.weight_files)):
        return f"missing: {shorten(absent)}"
    lie = [(tensor.name, tensor.file) for tensor in subject.tensors]
    if unknown := sorted(name for name, _ in lie if name not in promised):
        return f"not in the index: {shorten(unknown)}"
    if elsewhere := sorted(set(promised.items()) - set(lie)):
        return f"not in the file that the index names: {shorten([name for name, _ in elsewhere])}"
    if twice := sorted({name for name, file in lie if promised[name] != file}):
        return f"in two files: {shorten(twice)}"
    return ""
