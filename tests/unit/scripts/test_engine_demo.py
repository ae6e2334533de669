"""scripts/engine_demo.sh with a ``qat`` that only writes what it was asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "engine_demo.sh"
QAT = """#!/bin/sh
for word; do
    case $word in run_dir=*) folder=${word#run_dir=} ;; esac
done
case $folder in *"$BROKEN") echo "qat: error: no" >&2; exit 1 ;; esac
mkdir -p "$folder"
echo "$*" >"$folder/metrics.json"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the script in a repository of stubs."""
    for name, text in ((".venv/bin/qat", QAT), ("scripts/setup.sh", "#!/bin/sh\n")):
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    return Path(shutil.copy(SCRIPT, tmp_path / "repository/scripts"))


def run(script: Path, place: Path, *words: str, broken: str = "none") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BROKEN": broken, "TMPDIR": str(place)}
    command = ["bash", str(script), *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_both_runs_lie_where_it_says(script: Path, tmp_path: Path) -> None:
    result = run(script, tmp_path, "a folder")
    assert result.returncode == 0, result.stderr
    for name, scheme in (("w4a16", "recipe=demo/w4a16_lsq"), ("w8a8", "scheme=w8a8")):
        metrics = tmp_path / "a folder" / name / "metrics.json"
        assert scheme in metrics.read_text()
        assert result.stdout.rstrip().count(str(metrics)) == 1


def test_without_a_folder_it_makes_one(script: Path, tmp_path: Path) -> None:
    assert run(script, tmp_path).returncode == 0
    assert len([*tmp_path.glob("qat-engine-demo.*/w8a8/metrics.json")]) == 1


def test_a_run_that_fails_stops_nothing_else_and_is_named(script: Path, tmp_path: Path) -> None:
    result = run(script, tmp_path, "out", broken="w4a16")
    assert result.returncode == 1
    assert (tmp_path / "out/w8a8/metrics.json").is_file()
    assert "failed: w4a16 (" in result.stderr
    assert "w4a16: the exports" not in result.stdout


def test_an_option_is_no_folder(script: Path, tmp_path: Path) -> None:
    result = run(script, tmp_path, "--help")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "usage: scripts/engine_demo.sh [folder]\n"
    assert not (tmp_path / "--help").exists()
