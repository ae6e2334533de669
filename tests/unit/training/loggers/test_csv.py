"""``metrics.csv`` has each step once."""

from __future__ import annotations

import csv
from pathlib import Path

from qat.training.loggers import CsvLogger


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _write(folder: Path, steps: range) -> None:
    logger = CsvLogger(folder)
    for step in steps:
        logger.log_metrics({"loss": step / 3}, step)
    logger.finalize("success")


def test_values_of_one_step_share_a_row(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.log_metrics({"val/loss": 2.0}, 1)
    logger.log_metrics({"train/loss": 3.0}, 2)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss,val/loss\n1,1.0,2.0\n2,3.0,\n"


def test_a_new_column_is_empty_in_the_rows_before(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"a": 1}, 1)
    logger.log_metrics({"b": 2}, 2)
    logger.log_metrics({"a": 3, "b": 4}, 3)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b\n1,1,\n2,,2\n3,3,4\n"


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 2))
    assert float(_rows(tmp_path)[0]["loss"]) == 1 / 3


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 8))
    before = _rows(tmp_path)
    _write(tmp_path, range(5, 10))
    rows = _rows(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(1, 10))
    assert rows[:7] == before


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1")  # of "12,4.0\n": read as a row, it would be a second step 1
    _write(tmp_path, range(4, 6))
    assert [int(row["step"]) for row in _rows(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_run_that_starts_anew_starts_the_file_anew(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 8))
    _write(tmp_path, range(1, 3))
    assert [int(row["step"]) for row in _rows(tmp_path)] == [1, 2]


def test_a_run_that_logs_nothing_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.csv").read_text()
    CsvLogger(tmp_path).finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == before


def test_a_row_is_on_disk_as_soon_as_it_is_saved(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.save()
    logger.log_metrics({"loss": 2.0}, 2)
    assert [row["step"] for row in _rows(tmp_path)] == ["1"]
