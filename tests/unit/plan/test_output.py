from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from qat.plan.compare import compare
from qat.plan.figures import figures
from qat.plan.page import groups, write_page
from qat.plan.result import Plan, Replicas, Row
from qat.plan.summary import bins, replicas
from qat.plan.table import money, notes, render, seconds, share, thinned
from qat.plan.traffic.trace import Trace


@pytest.fixture
def plan(make) -> Plan:
    hostings = {
        "bedrock": make.bedrock(idle_seconds=make.quote(300, assumed=True)),
        "fleet": make.fleet(speeds={"float": make.speed(), "int4": make.speed(output=90)}),
    }
    facts = make.facts.model_copy(update={"name": "</script><b>model"})
    return compare(facts, Trace(file=str(make.example)), hostings)


def test_json_round_trip(plan, tmp_path) -> None:
    plan.write(tmp_path / "plan.json")
    assert Plan.model_validate_json((tmp_path / "plan.json").read_text()) == plan
    assert json.loads((tmp_path / "plan.json").read_text())["rows"][0]["cost_per_day"] == pytest.approx(4.702619)


def test_table_tells_costs_and_what_is_assumed(plan) -> None:
    console = Console(width=160, record=True, file=StringIO())
    console.print(render(plan))
    text = console.export_text()
    for found in (
        "*bedrock",
        "4.70",
        "16.86",
        "refused",
        "saves nothing here",
        "rests on assumed numbers, which the page lists: bedrock",
    ):
        assert found in text
    assert "*fleet" not in text
    assert "60.8 / 61.8 /" in text, "the median of 1, 51, 60.5, 61, 61 and 62 s"


@pytest.mark.parametrize("width", [80, 120])
def test_tables_hide_and_wrap_nothing(make, width: int) -> None:
    name, facts = "bedrock_us_east_1", make.facts.model_copy(update={"name": "m"})
    hostings = {
        name: make.bedrock(idle_seconds=make.quote(300, assumed=True)),
        "fleet": make.fleet(speeds={"float": make.speed(), "int4": make.speed(output=90)}),
    }
    console = Console(width=width, record=True, file=StringIO())
    plan = compare(facts, Trace(file=str(make.example)), hostings)
    console.print(render(plan))
    lines = [line.split() for line in console.export_text().splitlines()]
    # Money, times and shares: one row where no precision has numbers of its own, and one each elsewhere.
    assert [line[1] for line in lines if line and line[0] == f"*{name}"] == ["all"] * 3
    assert [line[1] for line in lines if line and line[0] == "fleet" and not line[1].endswith((",", ":"))] == [
        "float", "int8", "int4", "float", "int4", "float", "int4",
    ]  # fmt: skip
    first, last = plan.rows[0].time_to_first_token, plan.rows[0].latency
    times = [seconds(value) for t in (last, first) for value in (t.p50, t.p95, t.p99)]
    assert [f"*{name}", "all", *times] in [[word for word in line if word != "/"] for line in lines]


def test_a_note_that_several_precisions_have_is_said_once(plan) -> None:
    told = notes(plan).splitlines()
    assert [line.split(":")[0] for line in told if line.startswith("bedrock")] == [
        "bedrock float",
        "bedrock int8, int4",
    ]


class Page(HTMLParser):
    """Links to elsewhere, the ids, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [given["id"]] if "id" in given else []


def test_page_is_whole_and_safe(plan, tmp_path) -> None:
    write_page(plan, tmp_path / "plan.html")
    text = (tmp_path / "plan.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.links == [] and "b" not in page.tags
    assert page.ids == ["plot0", "plot1", "plot2", "plot3"]
    assert len(text) > 3_000_000 and "prefers-color-scheme: dark" in text and "width=device-width" in text
    (plots,) = re.findall(r"const plots = \{(.*)\};", text)
    assert plots.count('"data":') == 4
    assert '<span class="assumed">assumed:</span> a test' in text


def test_page_groups_by_hosting_and_marks_what_costs_least(plan, tmp_path) -> None:
    bedrock, fleet = groups(plan)
    assert (bedrock.name, [precision for _, precision in bedrock.rows]) == ("*bedrock", ["all"])
    assert bedrock.cheapest is None
    costs = {precision: row.cost_per_day for row, precision in fleet.rows}
    assert fleet.cheapest is not None and fleet.cheapest.cost_per_day == min(filter(None, costs.values()))
    write_page(plan, tmp_path / "plan.html")
    text = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert text.count('<tr class="best">') == 2 == text.count("costs least on its hosting")
    assert text.count(f'rowspan="{len(fleet.rows)}">fleet<') == 2


def test_figures_have_a_line_for_each_simulation_of_its_own(plan) -> None:
    costs, latency, over_time, requests = figures(plan).values()
    assert list(costs.data[0].y) == ["fleet int4", "fleet float", "bedrock"]
    assert [line.name for line in latency.data] == ["bedrock", "fleet float", "fleet int4"]
    assert [line.name for line in over_time.data] == ["bedrock", "fleet float", "fleet int4"]
    assert np.sum(requests.data[0].y) * plan.bin_seconds == pytest.approx(6, abs=1e-3)


def test_replica_curve() -> None:
    # Two cells: 2 replicas from 30 to 90 and 2 more from 60 on.
    found = replicas(np.array([[30, 2], [60, 2], [90, -2]], float), np.array([0.0, 60, 120]), cells=2)
    assert found.curve == [1.0, 3.0] and found.peak == 4
    assert (found.mean, found.mean_in_cell) == (2.0, 1.0)
    assert replicas(np.empty((0, 2)), np.array([0.0, 60]), 1) is None


@pytest.mark.parametrize(("length", "count"), [(86_400, 288), (3600, 60), (30, 1), (604_800, 288)])
def test_bins(length: float, count: int) -> None:
    edges = bins(float(length))
    assert len(edges) == count + 1 and edges[0] == 0 and edges[-1] == length


def test_numbers() -> None:
    assert money(1234.5, "USD") == "1,234.50 USD" and money(None, "USD") == "-"
    assert seconds(0.3812) == "0.381" and seconds(None) == "-"
    assert [share(part) for part in (None, 0.0, 5e-5, 0.5)] == ["-", "0 %", "<0.01 %", "50.00 %"]


def test_thinned_traffic_is_told_and_small_cells_are_warned_of() -> None:
    row = Row(hosting="h", precision="float", status="simulated", note="", currency="USD")
    assert thinned(row) == ""
    grain = row.model_copy(update={"grain": 4})
    assert thinned(grain) == "; 1 of 4 requests followed (1 cell, grain 4)"
    few, many = (
        row.model_copy(update={"cells": 8, "replicas": Replicas(mean=8 * each, peak=99, mean_in_cell=each, curve=[])})
        for each in (3.5, 4.0)
    )
    assert "a cell has 3.5 replicas on average" in thinned(few) and "raise max_requests" in thinned(few)
    assert thinned(many) == "; 1 of 8 requests followed (8 cells, grain 1)"
