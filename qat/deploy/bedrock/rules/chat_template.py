"""Rule 6: the chat template."""

from __future__ import annotations

from qat.deploy.bedrock import sources
from qat.deploy.bedrock.subject import Subject
from qat.deploy.checks import Check, Rule, rule

_FILES = ("chat_template.jinja", "chat_template.json")
_FOLDER = "additional_chat_templates/"


@rule(
    "bedrock.6.chat_template",
    "Chat template",
    "exactly one, embedded in tokenizer_config.json; none warns: such a model takes no messages",
    f"{sources.INVOKE}; {sources.TEMPLATES}",
)
def chat_template(rule: Rule, subject: Subject) -> Check:
    held = subject.tokenizer_config.get("chat_template")
    embedded = len(held) if isinstance(held, list) else int(held is not None)
    beside = [name for name in subject.files if name in _FILES or name.startswith(_FOLDER)]
    if beside:
        found = f"{', '.join(beside)} beside {embedded} embedded: a file overrides what is embedded"
        return rule.failed(found, "put the one template into tokenizer_config.json and remove the file")
    if embedded == 0:
        return rule.warned(
            "none", "embed one in tokenizer_config.json, or send no messages: BedrockCompletion, OpenAICompletion"
        )
    if embedded > 1 or not isinstance(held, (str, list)):
        return rule.failed(f"{embedded} embedded", "leave one template, as a text")
    return rule.passed("one, embedded")
