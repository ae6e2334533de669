"""Rule 5: the files of an import, and the class of its tokenizer."""

from __future__ import annotations

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule
from qat.errors import InputError
from qat.export.folder import CONFIG

JSON_FILES = (CONFIG, "tokenizer_config.json", "tokenizer.json")
_EITHER = (
    "T5Tokenizer",
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GPT2Tokenizer",
    "GPTNeoXTokenizer",
    "PreTrainedTokenizer",
    "Qwen2Tokenizer",
)
TOKENIZER_CLASSES = tuple(name + ending for name in _EITHER for ending in ("", "Fast"))
_SENTENCEPIECE = {
    "LlamaTokenizer": "tokenizer.model",
    "CodeLlamaTokenizer": "tokenizer.model",
    "T5Tokenizer": "spiece.model",
}
"""The file of the slow classes, which the fast ones do without."""


@rule("bedrock.5.files", "Files", f"{', '.join(JSON_FILES)} and *.safetensors", sources.IMPORT)
def files(rule: Rule, subject: Subject) -> Check:
    problems = [problem for name in JSON_FILES if (problem := _unreadable(subject, name))]
    try:
        weights = f"{len(subject.weight_files)} *.safetensors"
    except InputError as error:
        problems.append(str(error))
    fix = "write the folder again: qat deploy target=bedrock run=<run folder>"
    return rule.failed("; ".join(problems), fix) if problems else rule.passed(f"{', '.join(JSON_FILES)}, {weights}")


@rule(
    "bedrock.5.tokenizer_class",
    "tokenizer_class of tokenizer_config.json",
    f"{', '.join(_EITHER)}, each also with Fast",
    sources.IMPORT,
)
def tokenizer_class(rule: Rule, subject: Subject) -> Check:
    held = subject.tokenizer_config.get("tokenizer_class")
    why = ", which transformers 4.51.3 does not know" if held == "TokenizersBackend" else ""
    fix = "PreTrainedTokenizerFast runs a tokenizer.json as it is: write it as tokenizer_class"
    return rule.unless("" if held in TOKENIZER_CLASSES else f"{held}{why}", fix, str(held))


@rule(
    "bedrock.5.sentencepiece",
    "File of a SentencePiece tokenizer",
    "tokenizer.model (T5: spiece.model), where the tokenizer has one",
    sources.IMPORT,
)
def sentencepiece(rule: Rule, subject: Subject) -> Check:
    held = str(subject.tokenizer_config.get("tokenizer_class"))
    file = _SENTENCEPIECE.get(held)
    if file is None:
        return rule.passed(f"{held} needs none")
    if (subject.folder / file).is_file():
        return rule.passed(file)
    return rule.warned(f"{held} without {file}", f"copy {file} from the base model, or take {held}Fast")


def _unreadable(subject: Subject, name: str) -> str:
    try:
        subject.json(name)
    except InputError as error:
        return str(error)
    return ""
