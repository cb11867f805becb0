"""The benchmark harness: budgets name rows that exist, the better value wins, tables line up."""

from __future__ import annotations

import ast
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

from benchmarks import groups
from benchmarks.budgets import BUDGETS, reached
from benchmarks.cluster import ratio, summary
from benchmarks.compare import alternate, comparison
from benchmarks.measure import cost_row, latency_row, quantile, rate_row
from benchmarks.plot import plot
from benchmarks.report import number, table
from fuzz.kill_gcs import step
from zray.sim.linearizability import Operation, check

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def texts_of_groups() -> str:
    """All string constants of the group modules, f-strings with their value left out."""
    found = []
    for module in groups.GROUPS.values():
        tree = ast.parse((BENCHMARKS / (module.rpartition(".")[2] + ".py")).read_text())
        found += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str]
    return "\n".join(found)


@pytest.mark.parametrize("row", BUDGETS)
def test_every_budget_belongs_to_a_row_of_a_group(row):
    text = texts_of_groups()
    assert row in text or row.partition("(n = ")[0] in text


def test_a_budget_is_a_floor_for_rates_and_a_ceiling_for_costs():
    assert reached(rate_row("tasks", "tasks, 1000 at a time", 60_000)) is True
    assert reached(rate_row("tasks", "tasks, 1000 at a time", 59_999)) is False
    assert reached(cost_row("session", "shutdown", 0.3)) is True
    assert reached(cost_row("session", "shutdown", 0.31)) is False
    assert reached(cost_row("session", "no such row", 1)) is None


def test_quantiles_of_few_and_many():
    assert quantile([1.0], 0.99) == 1.0
    assert quantile(list(map(float, range(100))), 0.5) == 50.0
    assert latency_row("g", "r", [0.001] * 99 + [1.0])["p99"] == 1000.0


def test_alternate_keeps_the_best_of_each_side_and_swaps_who_begins():
    order = []

    def side(name, values):
        values = iter(values)

        def measure(group):
            order.append(name)
            return [rate_row(group, "rate", next(values)), cost_row(group, "cost", 10 - len(order))]

        return measure

    ours, theirs = alternate(["g"], 2, side("a", [1, 3]), side("b", [5, 4]))
    assert order == ["a", "b", "b", "a"]
    assert ours["rate"]["value"] == 3
    assert theirs["rate"]["value"] == 5
    assert ours["cost"]["value"] == 6


def test_comparison_shows_how_many_times_better_in_both_directions():
    ours = {"shutdown": cost_row("s", "shutdown", 0.1), "rate": rate_row("s", "rate", 30)}
    theirs = {"shutdown": cost_row("s", "shutdown", 1.0), "rate": rate_row("s", "rate", 10)}
    lines = comparison(ours, theirs, "ray").splitlines()
    assert "10x" in lines[2]
    assert lines[2].split()[-1] == "0.3"
    assert "3x" in lines[3]


def test_tables_align_and_numbers_are_short():
    lines = table(["row", "value"], [["long name", "1"], ["x", "12,345"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [number(v) for v in (None, 0.1234, 999.0, 1234.5)] == ["-", "0.123", "999", "1,234"]


def test_a_plot_is_well_formed_and_has_its_lines(tmp_path):
    lines = [("a < b", [(1.0, 0.5), (10.0, 50.0)]), ("c", [(1.0, 2.0), (1000.0, 3.0)])]
    for log in (False, True):
        plot(tmp_path / "plot.svg", "Title & more", "x", "y", lines, log=log)
        root = parse(tmp_path / "plot.svg").getroot()
        found = root.findall("{http://www.w3.org/2000/svg}polyline")
        assert len(found) == 2 and all(len(line.attrib["points"].split()) == 2 for line in found)
        assert "a < b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_ratio_is_the_median_of_pairs_and_above_one_when_better():
    rows = {"lone": [cost_row("g", "r", value) for value in (1.0, 2.0, 4.0)],
            "local": [cost_row("g", "r", value) for value in (2.0, 2.0, 2.0)]}
    assert ratio(rows, "local") == 1.0
    assert ratio({"lone": [rate_row("g", "r", 10)], "remote": [rate_row("g", "r", 5)]}, "remote") == 0.5
    assert ratio(rows, "remote") is None
    assert [row["row"] for row in summary({"r": rows})] == ["r"]


def test_the_key_that_histories_are_checked_against_behaves_like_one_of_the_store():
    state, seen = None, []
    for action in (("get",), ("add", b"1"), ("add", b"2"), ("put", b"3"), ("get",), ("delete",), ("delete",)):
        state, result = step(state, action)
        seen.append(result)
    assert seen == [None, False, True, True, b"3", True, False]
    history = [Operation("k", ("put", b"1"), False, 0, 1), Operation("k", ("get",), None, 2, 3)]
    assert not check(history, step), "an acknowledged write that is not there"
