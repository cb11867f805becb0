"""A Grafana board of a cluster: what runs, what waits, memory, machines, the user's own metrics.  Pure.

The form is that of Grafana's dashboard JSON, schema version 39 (grafana.com/docs/grafana/latest/dashboards).
A board is imported by hand or provisioned as a file; it asks for a Prometheus data source.
"""

from __future__ import annotations

from typing import Any

from zray.base.named_tuples import NamedTuple

SCHEMA_VERSION = 39  # Grafana 11; later ones migrate it
GRID_COLUMNS = 24  # of Grafana's grid
PANEL_COLUMNS, PANEL_ROWS = 12, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'SessionName=~"$session"'


class Panel(NamedTuple):
    """One plot: its queries, with the legend of each."""

    title: str
    unit: str  # of Grafana: short, bytes, percent, Bps, ops
    queries: list[tuple[str, str]]
    stacked: bool = False
    about: str = ""


BOARD: list[tuple[str, list[Panel]]] = [
    ("Work", [
        Panel("Tasks that run", "short", [(f'sum by (State, Name) (ray_tasks{{State=~"RUNNING.*",{CHOSEN}}})',
                                           "{{Name}} {{State}}")], stacked=True),
        Panel("Tasks that ended, a second", "ops", [
            (f'sum by (State) (rate(ray_tasks{{State=~"FINISHED|FAILED",{CHOSEN}}}[$__rate_interval]))', "{{State}}"),
            (f"sum(rate(zray_tasks_not_reported_total{{{CHOSEN}}}[$__rate_interval]))", "counted only")], stacked=True),
        Panel("Failed tasks", "short", [(f'sum by (Name) (increase(ray_tasks{{State="FAILED",{CHOSEN}}}'
                                         "[$__rate_interval]))", "{{Name}}")]),
        Panel("Workers that are waited for", "short", [(f"sum by (Name) (zray_leases_wanted{{{CHOSEN}}})",
                                                        "{{Name}}")], stacked=True,
              about="By the function that waits first. A value that stays says that resources are short."),
        Panel("Actors", "short", [(f"sum by (State) (ray_actors{{{CHOSEN}}})", "{{State}}")], stacked=True),
        Panel("Placement groups and jobs", "short", [
            (f"sum by (State) (ray_placement_groups{{{CHOSEN}}})", "group {{State}}"),
            (f"sum(ray_running_jobs{{{CHOSEN}}})", "jobs")]),
        Panel("Resources in use", "short", [(f'sum by (Name) (ray_resources{{State="USED",Name!~"node:.*|.*memory",'
                                             f"{CHOSEN}}})", "{{Name}}")]),
        Panel("Workers", "short", [(f"sum by (State) (zray_workers{{{CHOSEN}}})", "{{State}}"),
                                   (f"sum(increase(zray_worker_deaths_total{{{CHOSEN}}}[$__rate_interval]))",
                                    "died"),
                                   (f"sum(increase(ray_memory_manager_worker_eviction_total{{{CHOSEN}}}"
                                    "[$__rate_interval]))", "ended for memory")])]),
    ("Objects", [
        Panel("Object store by node", "bytes", [
            (f"sum by (NodeAddress) (ray_object_store_used_memory{{{CHOSEN}}})", "{{NodeAddress}} used"),
            (f"sum by (NodeAddress) (zray_object_store_capacity{{{CHOSEN}}})", "{{NodeAddress}} capacity")]),
        Panel("Objects by where they are", "bytes", [
            (f"sum by (Location) (ray_object_store_memory{{{CHOSEN}}})", "{{Location}}")], stacked=True),
        Panel("Number of objects", "short", [
            (f"sum by (NodeAddress) (ray_object_store_num_local_objects{{{CHOSEN}}})", "{{NodeAddress}}")]),
        Panel("Free bytes of the store", "bytes", [
            (f"min by (NodeAddress) (ray_object_store_available_memory{{{CHOSEN}}})", "{{NodeAddress}}")])]),
    ("Machines", [
        Panel("CPU", "percent", [(f"avg by (ip) (ray_node_cpu_utilization{{{CHOSEN}}})", "{{ip}}")]),
        Panel("Memory", "bytes", [(f"max by (ip) (ray_node_mem_used{{{CHOSEN}}})", "{{ip}} used"),
                                  (f"max by (ip) (ray_node_mem_total{{{CHOSEN}}})", "{{ip}} total")]),
        Panel("CPU by function", "percent", [(f"sum by (Component) (ray_component_cpu_percentage{{{CHOSEN}}})",
                                              "{{Component}}")], stacked=True),
        Panel("Memory by function", "decmbytes", [(f"sum by (Component) (ray_component_rss_mb{{{CHOSEN}}})",
                                                   "{{Component}}")], stacked=True),
        Panel("Disk of the session", "percent", [
            (f"max by (ip) (ray_node_disk_utilization_percentage{{{CHOSEN}}})", "{{ip}}")]),
        Panel("Network", "Bps", [(f"max by (ip) (ray_node_network_receive_speed{{{CHOSEN}}})", "{{ip}} in"),
                                 (f"max by (ip) (ray_node_network_send_speed{{{CHOSEN}}})", "{{ip}} out")])]),
    ("Metrics", [
        Panel("Records left out", "short", [
            (f"sum by (NodeAddress) (zray_metrics_dropped_total{{{CHOSEN}}})", "{{NodeAddress}}")])]),
]


def board() -> dict[str, Any]:
    """The board, for JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, group in BOARD:
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": GRID_COLUMNS, "h": 1}})
        top += 1
        for place, panel in enumerate(group):
            row, column = divmod(place, GRID_COLUMNS // PANEL_COLUMNS)
            panels.append(_panel(panel, len(panels) + 1, column * PANEL_COLUMNS, top + row * PANEL_ROWS))
        top += -(-len(group) * PANEL_COLUMNS // GRID_COLUMNS) * PANEL_ROWS
    return {
        "uid": "zray", "title": "zray", "tags": ["zray", "ray"], "schemaVersion": SCHEMA_VERSION, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "10s", "timezone": "browser",
        "time": {"from": "now-30m", "to": "now"}, "annotations": {"list": []}, "links": [], "panels": panels,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            {"name": "session", "type": "query", "label": "Session", "datasource": SOURCE, "refresh": 2,
             "definition": "label_values(zray_workers, SessionName)", "includeAll": True, "multi": True,
             "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "sort": 2,
             "query": {"query": "label_values(zray_workers, SessionName)", "refId": "sessions"}}]}}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    style = {"fillOpacity": 20 if panel.stacked else 0, "lineWidth": 1, "showPoints": "never",
             "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}
    return {
        "id": number, "type": "timeseries", "title": panel.title, "description": panel.about, "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": PANEL_COLUMNS, "h": PANEL_ROWS},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": style}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"]},
                    "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [{"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend,
                     "editorMode": "code", "range": True} for place, (expression, legend) in enumerate(panel.queries)]}
