"""Metrics: what processes record adds up on their node, in bounded memory, and is read back from the text."""

from __future__ import annotations

import re
import warnings

import cloudpickle
import pytest
from hypothesis import given, strategies as st

from zray.base.config import Config
from zray.metrics import exposition
from zray.metrics.recorder import COUNTER, GAUGE, HISTOGRAM, Recorder
from zray.metrics.table import WORKER_LABEL, MetricTable
from zray.node.running.scrape import parsed
from zray.util import metrics
from zray.wire.codec import decode, encode
from zray.wire.messages import MetricsReport

LINE = re.compile(r'(\w+)(?:\{(.*)\})? (\S+)', re.S)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"', re.S)


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    """(name, labels) -> value, of a text in Prometheus' format."""
    found = {}
    for line in filter(None, text.split("\n")):
        if not line.startswith("#"):
            name, labels, value = LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            found[name, frozenset(LABEL.findall(labels or ""))] = float(value)
    return found


RECORDS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"]), st.integers(1, 9)), max_size=30)


@given(RECORDS, st.integers(1, 5))
def test_what_processes_record_adds_up_however_often_they_report(records, every):
    table, processes = MetricTable(1000), [Recorder() for _ in range(3)]
    for number, (process, tag, value) in enumerate(records):
        recorder = processes[process]
        recorder.add(COUNTER, "c", "", ("t",), (tag,), value)
        recorder.add(GAUGE, "g", "", ("t",), (tag,), value)
        recorder.add(HISTOGRAM, "h", "", ("t",), (tag,), value, (2.0, 5.0))
        if number % every == 0:
            assert table.report(str(process), *recorder.take())
    for process, recorder in enumerate(processes):
        assert table.report(str(process), *recorder.take())
    table.check()
    found = samples(exposition.text_of(table.rows({})))
    for tag in ("a", "b"):
        values = [value for _, t, value in records if t == tag]
        if not values:
            continue
        label = frozenset([("t", tag)])
        assert found["c_total", label] == found["h_sum", label] == sum(values)
        assert found["h_count", label] == len(values)
        for bound, name in ((2, "2"), (5, "5"), (9, "+Inf")):
            assert found["h_bucket", label | {("le", name)}] == sum(value <= bound for value in values)
        for process in range(3):
            last = [value for p, t, value in records if (p, t) == (process, tag)]
            key = "g", label | {(WORKER_LABEL, str(process))}
            assert (key in found) == bool(last) and (not last or found[key] == last[-1])


def test_the_gauges_of_a_process_end_with_it_and_its_counters_stay():
    table, recorder = MetricTable(10), Recorder()
    recorder.add(GAUGE, "g", "", (), (), 1.0)
    recorder.add(COUNTER, "c", "", (), (), 2.0)
    assert table.report("w", *recorder.take())
    table.ended("w")
    assert samples(exposition.text_of(table.rows({}))) == {("c_total", frozenset()): 2.0}
    table.check()


def test_series_are_bounded_and_what_is_left_out_is_counted():
    table, recorder = MetricTable(2), Recorder(series_max=3)
    for number in range(5):
        recorder.add(COUNTER, "c", "", ("n",), (str(number),), 1.0)
    assert table.report("w", *recorder.take())
    assert table.count == 2 and table.dropped == 3
    recorder.add(GAUGE, "other", "", (), (), 1.0)
    assert table.report("w", *recorder.take()) and table.dropped == 4
    table.check()


def test_a_metric_that_contradicts_its_first_declaration_is_left_out():
    table, recorder = MetricTable(10), Recorder()
    recorder.add(COUNTER, "m", "", (), (), 1.0)
    recorder.add(GAUGE, "m", "", (), (), 5.0)
    assert table.report("w", *recorder.take()) and table.dropped == 1
    assert samples(exposition.text_of(table.rows({}))) == {("m_total", frozenset()): 1.0}


def test_a_histogram_with_other_boundaries_is_left_out_and_the_first_stays_right():
    table, recorder = MetricTable(10), Recorder()
    recorder.add(HISTOGRAM, "h", "", (), (), 0.5, (1.0,))
    for value in (1.5, 2.5, 4.5):
        recorder.add(HISTOGRAM, "h", "", (), (), value, (1.0, 2.0, 3.0, 4.0, 5.0))
    recorder.add(HISTOGRAM, "h", "", (), (), 7.0, (1.0,))
    assert table.report("w", *recorder.take()) and table.dropped == 1
    found = samples(exposition.text_of(table.rows({})))
    assert found == {("h_bucket", frozenset([("le", "1")])): 1, ("h_bucket", frozenset([("le", "+Inf")])): 2,
                     ("h_sum", frozenset()): 7.5, ("h_count", frozenset()): 2}
    table.check()


def test_text_that_is_no_utf_8_is_sent_with_escapes_and_loses_nothing_else():
    recorder = Recorder()
    recorder.add(COUNTER, "c", "", (), (), 5.0)
    recorder.add(COUNTER, "u", "\udcff", ("k",), ("a\ud800",), 1.0)
    rows, dropped = decode(encode([MetricsReport.CODE, MetricsReport(*recorder.take())]))[0][1]
    table = MetricTable(10)
    assert table.report("w", rows, dropped)
    text = exposition.text_of(table.rows({}))
    assert "c_total 5" in text and r"# HELP u_total \\udcff" in text and r'u_total{k="a\\ud800"} 1' in text


@pytest.mark.parametrize("row", [
    None, [], [COUNTER, "c", "", [], [], "1", []], ["other", "c", "", [], [], 1, []],
    [COUNTER, "c", "", ["k"], [], 1, []], [COUNTER, "c", "", [1], ["v"], 1, []], [COUNTER, "c", "", [], [], [1], []],
    [HISTOGRAM, "h", "", [], [], 1, [1.0]], [HISTOGRAM, "h", "", [], [], [1, 2], [1.0]]])
def test_a_malformed_row_is_refused_and_does_no_harm(row):
    table = MetricTable(10)
    assert not table.report("w", [row], 0) and not table.families
    table.check()


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), st.text(), max_size=3))
def test_every_label_is_read_back(labels):
    text = exposition.text_of([{"name": "g", "kind": GAUGE, "description": "a\nb", "boundaries": [],
                                "series": [[labels, 1.0]]}])
    ((_, found),) = samples(text)
    unescape = {r"\\": "\\", r"\n": "\n", r"\"": '"'}
    assert {key: re.sub(r"\\[\\n\"]", lambda m: unescape[m.group()], value) for key, value in found} == labels


def test_numbers_are_those_that_prometheus_reads():
    values = [1.0, 0.5, float("inf"), float("-inf"), float("nan"), 1e20, 3]
    text = exposition.text_of([{"name": "g", "kind": GAUGE, "description": "", "boundaries": [],
                                "series": [[{}, value] for value in values]}])
    assert [line.split()[1] for line in text.splitlines()[2:]] == ["1", "0.5", "+Inf", "-Inf", "NaN", "1e+20", "3"]


def test_families_of_several_nodes_are_one():
    def family(node: str, kind: str = COUNTER) -> dict:
        return {"name": "c", "kind": kind, "description": "", "boundaries": [], "series": [[{"NodeId": node}, 1]]}

    (found,) = exposition.merged([family("a"), family("b"), family("c", GAUGE)])
    assert [labels["NodeId"] for labels, _ in found["series"]] == ["a", "b"]


# ---------------------------------------------------------------- the classes of users

def test_metrics_check_what_they_are_given_in_rays_words():
    for wrong, error, words in [
            (lambda: metrics.Counter(""), ValueError, "Empty name is not allowed"),
            (lambda: metrics.Counter("c", tag_keys=["a"]), TypeError, "tag_keys should be a tuple"),
            (lambda: metrics.Counter("c", tag_keys=("a", "b", "a")), ValueError, "Tag keys must differ"),
            (lambda: metrics.Counter("c", None), TypeError, "description of a metric is a str"),
            (lambda: metrics.Counter("c").inc(10**400), ValueError, "value must be in the range of a float"),
            (lambda: metrics.Gauge("g").set(10**400), ValueError, "value must be in the range of a float"),
            (lambda: metrics.Gauge("g", tag_keys=("a",)).set(1, ["a"]), TypeError, "tags should be a dict"),
            (lambda: metrics.Gauge("g").set_default_tags(None), TypeError, "default_tags should be a dict"),
            (lambda: metrics.Histogram("h", boundaries=[10**400]), ValueError, "value must be in the range"),
            (lambda: metrics.Histogram("h", boundaries=[float("nan")]), ValueError, "Use positive values"),
            (lambda: metrics.Counter("c", tag_keys=(1,)), TypeError, "Tag keys must be str"),
            (lambda: metrics.Counter("c").inc("1"), TypeError, "value must be int or float"),
            (lambda: metrics.Counter("c").inc(0), ValueError, "value must be >0"),
            (lambda: metrics.Gauge("g").set("1"), TypeError, "value must be int or float"),
            (lambda: metrics.Gauge("g", tag_keys=("a",)).set(1), ValueError, r"Missing value for tag key\(s\): a"),
            (lambda: metrics.Gauge("g", tag_keys=("a",)).set(1, {"a": 1}), TypeError, "Tag values must be str"),
            (lambda: metrics.Gauge("g").set_default_tags({"a": "b"}), ValueError, "Unrecognized tag key a"),
            (lambda: metrics.Histogram("h"), ValueError, "boundaries argument should be provided"),
            (lambda: metrics.Histogram("h", boundaries=[0, 1]), ValueError, "Use positive values")]:
        with pytest.raises(error, match=words):
            wrong()
    with pytest.warns(UserWarning, match="Invalid metric name: 1c. Metric will be discarded"):
        discarded = metrics.Counter("1c")
    discarded.inc()


def test_a_metric_knows_itself_and_travels():
    histogram = metrics.Histogram("h", "d", [1, 2], ("a",)).set_default_tags({"a": "b"})
    assert histogram.info == {"name": "h", "description": "d", "tag_keys": ("a",), "default_tags": {"a": "b"},
                              "boundaries": [1, 2]}
    copy = cloudpickle.loads(cloudpickle.dumps(histogram))
    assert type(copy) is metrics.Histogram and copy.info == histogram.info
    copy.observe(1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.Gauge("g").set(None)


def test_the_address_of_the_endpoint_is_this_machine_unless_it_names_another():
    assert parsed(":9090") == ("127.0.0.1", 9090) and parsed("0.0.0.0:1") == ("0.0.0.0", 1)
    assert parsed("[::1]:7") == ("::1", 7)
    for wrong in ("9090", "host", "host:port", "http://x:1"):
        with pytest.raises(ValueError, match="metrics_address"):
            Config(metrics_address=wrong)
