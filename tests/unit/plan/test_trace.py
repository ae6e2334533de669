from __future__ import annotations

import pytest

from qat.errors import InputError
from qat.plan.traffic.trace import Trace

HEADER = "time,prompt_tokens,output_tokens\n"


def trace(tmp_path, text: str, **options) -> Trace:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    return Trace(file=str(tmp_path / "t.csv"), **options)


def test_sorted_and_from_its_first_request(tmp_path) -> None:
    found = trace(tmp_path, "output_tokens,user,time,prompt_tokens\n3,a,1012.5,7\n\n4,b,1000,8\n").requests(60, 1.0, 0)
    assert found.arrival.tolist() == [0, 12.5]
    assert found.prompt.tolist() == [8, 7] and found.output.tolist() == [4, 3]


def test_origin_and_end(tmp_path) -> None:
    traffic = trace(tmp_path, HEADER + "100,1,1\n150,2,2\n160,3,3\n", origin=90.0)
    assert traffic.expected(60, 0) == 1 and traffic.requests(60, 1.0, 0).arrival.tolist() == [10]
    assert traffic.requests(61, 1.0, 0).prompt.tolist() == [1, 2]


def test_share_is_a_random_sample(tmp_path) -> None:
    traffic = trace(tmp_path, HEADER + "".join(f"{number},1,1\n" for number in range(4000)))
    first, again, other = (traffic.requests(4000, 0.25, seed).arrival for seed in (1, 1, 2))
    assert abs(len(first) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv:1: the header '' must name time, prompt_tokens, output_tokens"),
        ("time,prompt_token,output_tokens\n", "did you mean 'prompt_token'"),
        ("time,time,prompt_tokens,output_tokens\n", "once each"),
        (HEADER, "no request after its header"),
        (HEADER + "0,1,1\n5,1\n", r"t\.csv:3: '5,1' has 2 fields"),
        (HEADER + "soon,1,1\n", r"t\.csv:2: time='soon' is not a number of seconds"),
        (HEADER + "nan,1,1\n", r"t\.csv:2: time='nan'"),
        (HEADER + "0,1,1\n1,-4,1\n", r"t\.csv:3: prompt_tokens='-4' must be a whole number of at least 1"),
        (HEADER + "0,1,0\n", r"t\.csv:2: output_tokens='0'"),
        (HEADER + "0,1.5,1\n", r"t\.csv:2: prompt_tokens='1\.5'"),
    ],
)
def test_errors_name_the_line(tmp_path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace(tmp_path, text).requests(60, 1.0, 0)


def test_no_such_file_and_no_text(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Trace(file=str(tmp_path / "none.csv")).expected(60, 0)
    (tmp_path / "t.csv").write_bytes(b"time\xff\n")
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        Trace(file=str(tmp_path / "t.csv")).expected(60, 0)


def test_window_without_requests_and_late_origin(tmp_path) -> None:
    with pytest.raises(InputError, match="no request in the first 60 s"):
        trace(tmp_path, HEADER + "100,1,1\n", origin=0.0).requests(60, 1.0, 0)
    with pytest.raises(InputError, match="origin=101 is after the first request"):
        trace(tmp_path, HEADER + "100,1,1\n", origin=101.0).expected(60, 0)
