"""A good import folder, which tests copy and break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import copy_tokenizer

from qat.checkpoint import QuantizedCheckpoint
from qat.deploy.base import Source
from qat.deploy.bedrock.target import Bedrock
from qat.deploy.checks import Check
from qat.models import tiny_llama
from qat.prepare import prepare
from qat.scheme import preset

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
GIVEN = Bedrock(
    s3_uri="s3://bucket/models/tiny",
    role_arn="arn:aws:iam::123456789012:role/Import",
    job_name="tiny-1",
    parity=False,
)
"""Options with which every rule of the good folder passes, but those on policies that were not given."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The embedded Llama, rounded to nearest in w4a16_g32, with a tokenizer that has a chat template."""
    model, scheme = tiny_llama.load().model, preset("w4a16_g32")
    prepare(model, scheme)
    checkpoint = QuantizedCheckpoint.freeze(model, scheme, rest_dtype=torch.float16)
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    copy_tokenizer(tokenizer)
    (tokenizer / "chat_template.jinja").write_text(TEMPLATE)
    return Source(checkpoint, tokenizer, "tiny")


@pytest.fixture(scope="session")
def prepared(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``Bedrock.prepare`` writes; not to be changed."""
    folder = tmp_path_factory.mktemp("bedrock")
    Bedrock().prepare(source, folder)
    return folder


@pytest.fixture
def good(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the good import folder, to break."""
    return Path(shutil.copytree(prepared / "import", tmp_path / "import"))


@pytest.fixture
def given() -> Bedrock:
    """See :data:`GIVEN`."""
    return GIVEN


@pytest.fixture
def found() -> Callable[..., Check]:
    """``found(folder, rule, target)``: what one rule says of the folder."""

    def run(folder: Path, rule: str, target: Bedrock = GIVEN) -> Check:
        checks = {check.rule: check for check in target.preflight(folder).checks}
        return checks[f"bedrock.{rule}"]

    return run


@pytest.fixture
def edit(good: Path) -> Callable[..., None]:
    """``edit("config.json", key=value)`` changes keys of a JSON file; a value of None removes the key."""

    def change(file: str, **changes: Any) -> None:
        values = json.loads((good / file).read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        (good / file).write_text(json.dumps(kept))

    return change
