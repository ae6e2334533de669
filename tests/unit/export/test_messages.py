"""What the exporters tell a user: fixes that can be typed as they are, and no format but their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qat.export
from qat.config.compose import choices

ROOT = Path(qat.export.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
OF_DEQUANTIZED = "transformers_4_51.py"
AS_YAML = r"\b(scale_format|rest_dtype|dtype|dialect|static|dynamic|num_bits|rest): \w"


def texts(path: Path) -> Iterator[str]:
    """Every text of a file but docstrings; of an f-string, its fixed parts with ``{}`` between them."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_fixes_can_be_typed_and_other_formats_are_the_jobs_to_name(path: Path) -> None:
    first = path.relative_to(ROOT).parts[0]
    own = "dequantized" if first == OF_DEQUANTIZED else first
    others = "|".join(name for name in choices("export") if not own.startswith(name))
    for text in texts(path):
        assert not re.search(AS_YAML, text), text
        assert not re.search(rf"\b({others})\b", text), text
        assert not re.search(r"\b(train|freeze) with\b|\belsewhere\b", text), text
