from __future__ import annotations

import pytest

from qat.report.tables import human_bytes, number, perplexity, rate


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (901_000, "901 kB"), (999_600, "1 MB"),
     (3_812_000, "3.81 MB"), (16_060_522_496, "16.1 GB"), (2 * 10**15, "2e+03 TB")],
)  # fmt: skip
def test_human_bytes(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.44, "0.4"), (9.94, "9.9"), (850.4, "850"), (9999, "9999"), (23512.2, "23.5k"), (2e5, "200k")]
)
def test_a_rate_has_five_characters_at_most(value, text):
    assert rate(value) == text
    assert len(text) <= 5


@pytest.mark.parametrize(("value", "text"), [(6.1, "6.100"), (7332.0, "7,332"), (2.5e7, "2.5e+07")])
def test_perplexity(value, text):
    assert perplexity(value) == text


def test_what_was_not_measured_is_a_dash():
    assert number(None, perplexity) == "-"
    assert number(0.0, perplexity) == "0.000"
