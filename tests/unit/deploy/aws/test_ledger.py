from __future__ import annotations

from pathlib import Path

import pytest

from qat.deploy.aws.ledger import Ledger, Stored
from qat.deploy.pushed import PUSHED
from qat.errors import InputError

WHERE = {"target": "bedrock", "region": "us-east-1", "s3_uri": "s3://bucket/a/"}


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path, dry_run=False, **WHERE)
    ledger.objects = {"a/w": Stored(size=1, sha256="00")}
    ledger.save()
    again = Ledger.begin(tmp_path, dry_run=False, **WHERE)
    assert again == ledger and Ledger.read(tmp_path) == ledger
    ledger.close()
    with pytest.raises(InputError, match="nothing was pushed"):
        Ledger.read(tmp_path)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path, dry_run=True, **WHERE)
    ledger.save()
    assert not (tmp_path / PUSHED).exists()


def test_a_folder_is_in_one_place(tmp_path: Path) -> None:
    Ledger.begin(tmp_path, dry_run=False, **WHERE).save()
    with pytest.raises(InputError, match="was pushed with region us-east-1, not us-west-2; remove that first"):
        Ledger.begin(tmp_path, dry_run=False, **{**WHERE, "region": "us-west-2"})


ASTRAY = '{"target": "t", "region": "r", "s3_uri": "s3://b/a/", "objects": {"b/w": {"size": 1, "sha256": "00"}}}'


@pytest.mark.parametrize("text", ["{", "[]", '{"target": "bedrock", "else": 1}', ASTRAY])
def test_a_damaged_ledger(tmp_path: Path, text: str) -> None:
    (tmp_path / PUSHED).write_text(text)
    with pytest.raises(InputError, match="is damaged or of another target"):
        Ledger.read(tmp_path)
