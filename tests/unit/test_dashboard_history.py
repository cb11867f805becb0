"""The history of metrics is bounded, forgets what is reported no more, and makes rates of counters."""

from __future__ import annotations

from tests.fakes.kept_rows import metrics
from zray.dashboard.history import KEPT_SERIES_MAX, POINTS_MAX, History, rates


def family(name: str, kind: str, series: list) -> dict:
    return {"name": name, "kind": kind, "description": "", "boundaries": [], "series": series}


def test_points_come_in_order_and_the_oldest_go():
    history = History()
    for second in range(POINTS_MAX + 50):
        history.add(float(second), metrics(float(second)))
        history.check()
    (series,) = history.families["ray_object_store_used_memory"].values()
    points = series.points
    assert len(points) == POINTS_MAX and points[0] == (50.0, 50.0) and points[-1][1] == POINTS_MAX + 49


def test_series_beyond_the_limit_are_counted():
    history = History()
    history.add(1.0, [family("m", "gauge", [[{"i": str(i)}, i] for i in range(KEPT_SERIES_MAX + 7)])])
    history.check()
    assert history.left_out == 7 and len(history.families["m"]) == KEPT_SERIES_MAX


def test_what_is_no_longer_reported_is_forgotten():
    history = History()
    history.add(1.0, [family("m", "gauge", [[{"pid": "1"}, 1], [{"pid": "2"}, 1]]), family("n", "gauge", [[{}, 1]])])
    history.add(2.0, [family("m", "gauge", [[{"pid": "2"}, 5]])])
    assert [series.labels for series in history.families["m"].values()] == [{"pid": "2"}]
    assert set(history.families) == {"m"} == set(history.descriptions)


def test_a_histogram_counts_its_records():
    history = History()
    history.add(1.0, [family("m", "histogram", [[{}, [1, 2, 4, 0.7]]])])
    series = next(iter(history.families["m"].values()))
    assert series.kind == "counter" and list(series.points) == [(1.0, 7.0)]


def test_the_rate_of_a_counter_that_begins_again_is_not_negative():
    assert rates([(0.0, 10.0), (2.0, 30.0), (3.0, 5.0), (3.0, 9.0)]) == [(2.0, 10.0), (3.0, 5.0)]
    assert rates([(0.0, 10.0)]) == [] == rates([])
