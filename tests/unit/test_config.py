"""Settings: typed, validated, refused with the nearest name; docs/limits.md lists them with their defaults."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from zray.base.config import DEFAULTS, Config, refuse_slips
from zray.transport.sockets import Limits

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "": 1}


def documented() -> dict[str, str]:
    """Setting -> default, from the rows of the table."""
    rows = [row.split("|") for row in DOCS.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    return {row[1].strip(" `"): row[2].strip() for row in rows}


def value(text: str) -> object:
    if text in ('""', "off", "on"):
        return {'""': "", "off": False, "on": True}[text]
    number, _, unit = text.replace(",", "").partition(" ")
    return float(number) * UNITS[unit]


def test_every_setting_is_in_the_docs_with_its_default():
    assert {name: value(text) for name, text in documented().items()} == DEFAULTS.as_dict()


def test_a_setting_says_its_unit():
    numbers = {field.name for field in fields(Config) if field.type in ("int", "float")}
    units = re.compile(r"_(s|max|bytes|retries)$")
    assert not {name for name in numbers if not units.search(name)}


@pytest.mark.parametrize(("wrong", "meant"), [
    ("node_timeout", "node_timeout_s"), ("worker_max", "workers_max"), ("INLINE_BYTES_MAX", ""), ("zzz", "")])
def test_an_unknown_setting_is_refused_with_the_nearest_name(wrong, meant):
    hint = re.escape(f" (did you mean '{meant}'?)") if meant else ""
    with pytest.raises(ValueError, match=f"^zray has no setting {wrong}{hint};"):
        Config.load({wrong: 1, "gossip_s": 1.0})


def test_all_unknown_settings_are_named_at_once():
    with pytest.raises(ValueError, match="no setting zzy, zzz;"):
        Config.load({"zzz": 1, "zzy": 1})


def test_a_variable_that_is_a_slip_of_a_setting_is_refused():
    with pytest.raises(ValueError, match=r"ZRAY_NODE_TIMEOUT \(did you mean 'ZRAY_NODE_TIMEOUT_S'\?\)"):
        refuse_slips({"ZRAY_NODE_TIMEOUT": "3", "PATH": "/bin"})


@pytest.mark.parametrize("variable", ["ZRAY_NODE_TIMEOUT_S", "ZRAY_TMPDIR", "ZRAY_ADDRESS", "ZRAY_LOG_LEVEL",
                                      "NODE_TIMEOUT", "RAY_NODE_TIMEOUT"])
def test_other_variables_are_let_alone(variable):
    refuse_slips({variable: "3"})


def test_the_environment_is_read_and_an_override_wins(monkeypatch):
    monkeypatch.setenv("ZRAY_GOSSIP_S", "0.5")
    monkeypatch.setenv("ZRAY_KERNELS_AT_START", "true")
    config = Config.load({"warn_wait_s": -1})
    assert (config.gossip_s, config.kernels_at_start, config.warn_wait_s) == (0.5, True, -1)
    assert Config.load({"gossip_s": 2.0}).gossip_s == 2.0


@pytest.mark.parametrize(("name", "wrong", "why"), [
    ("gossip_s", "soon", "takes float, not 'soon'"), ("workers_max", True, "takes int, not True"),
    ("workers_max", 1.5, "takes int"), ("gossip_s", -1.0, "must not be negative"), ("spill_dir", 3, "takes str")])
def test_a_wrong_value_is_refused_by_name(name, wrong, why):
    with pytest.raises(ValueError, match=f"setting {name} {why}"):
        Config.load({name: wrong})


def test_a_node_of_another_version_may_have_other_settings_and_a_user_may_not():
    assert Config.of_session({"from_the_future": 1, "gossip_s": 0.5}, {"workers_max": 7}).workers_max == 7
    with pytest.raises(ValueError, match="from_the_future"):
        Config.of_session({}, {"from_the_future": 1})


def test_the_bounds_of_a_mesh_are_those_of_the_settings():
    assert Limits.of(DEFAULTS) == Limits()
    config = Config(held_messages_max=1, tcp_handshake_s=2.0, tcp_connections_max=3, session_frames_max=4)
    limits = Limits.of(config, reports_answers=True)
    assert (limits.held_messages_max, limits.handshake_s, limits.connections_max) == (1, 2.0, 3)
    assert limits.session_frames_max == 4 and limits.reports_answers
