"""The board for Grafana is well formed, and asks only for metrics and labels that nodes export."""

from __future__ import annotations

import json
import re

import pytest

from tests.fakes.node_machine import MachineNode
from zray.base.ports import changed
from zray.metrics.board import GRID_COLUMNS, SCHEMA_VERSION, board
from zray.metrics.exposition import text_of
from zray.node import measures
from zray.node.jobs.ended_events import Source
from zray.node.running.host_metrics import HostMetrics

NAME = re.compile(r"\b((?:ray|zray)_\w+)")
FUNCTIONS = {"sum", "avg", "min", "max", "rate", "increase", "by"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The labels of each exported name, of a node with a store and a machine."""
    node = MachineNode()
    node.bring_up()
    node.driver()
    viewed = changed(node.machine.metric_families.args[0], host=HostMetrics(str(tmp_path_factory.mktemp("session"))),
                     store_report=lambda: {"capacity": 9, "used": 1, "overflow": 0, "spilled": 0, "objects": []})
    viewed.events.report(Source(b"w", b"worker", 1, b"", {}), [event("f", 0.0), event("g", 2.0)], 0)
    names: dict[str, set[str]] = {}
    for family in measures.families(viewed):
        name = family["name"] + ("_total" if family["kind"] == "counter" else "")
        names[name] = {label for labels, _ in family["series"] for label in labels}
    return names


def event(name, end_s):
    return [name, name.encode() * 24, 7, 1.0, end_s, True, 0, 1, None, 0, name]


def panels():
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def test_every_query_names_metrics_and_labels_that_a_node_exports(exported):
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    for expression in expressions:
        for name in NAME.findall(re.sub(r'"[^"]*"', "", expression)):
            assert name in exported, f"{name} of {expression}"
    asked = {name for expression in expressions for name in NAME.findall(re.sub(r'"[^"]*"', "", expression))}
    assert len(asked) > 20


def test_groupings_and_legends_name_labels_that_the_metric_has(exported):
    checked = 0
    for panel in panels():
        for target in panel["targets"]:
            (name,) = set(NAME.findall(re.sub(r'"[^"]*"', "", target["expr"])))
            groups = {label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"])
                      for label in group.split(",")}
            legends = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legends <= groups, f"{panel['title']}: a legend of what is summed away"
            asked = set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', target["expr"]))
            if exported[name]:  # a metric without series at rest has its labels in the e2e test
                assert groups | asked <= exported[name], f"{panel['title']}: {target['expr']}"
                checked += 1
            assert target["expr"].count("(") == target["expr"].count(")")
    assert checked > 15


def test_the_form_is_what_grafana_imports():
    made = json.loads(json.dumps(board()))
    assert made["schemaVersion"] == SCHEMA_VERSION and made["uid"] and made["title"]
    numbers = [panel["id"] for panel in made["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= GRID_COLUMNS, panel["title"]
        taken |= cells
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)
    variables = {variable["name"] for variable in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(made["panels"]))) - {"__rate_interval"}
    assert used <= variables


def test_families_of_a_node_are_named_once_and_each_series_once():
    node = MachineNode()
    node.bring_up()
    families = node.machine.metric_families()
    names = [family["name"] for family in families]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"z?ray_\w+", name) for name in names)
    lines = [line.rpartition(" ")[0] for line in text_of(families).splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)
