"""Arguments of a node that make no sense are refused in one sentence that names the option."""

from __future__ import annotations

import os

import pytest

from zray.config import Config
from zray.node.member import _ticket
from zray.node.options import BadOption, membership, offer, parser
from zray.node.session import base_dirs
from zray.sched.resources import UNITS_MAX
from zray.transport.credentials import JoinString, encode_join

JOIN = encode_join(JoinString("127.0.0.1", 6379, b"c" * 16, b"node", b"k" * 32, b"t" * 32, 2e9))
PLACE, CODE = JOIN.removeprefix("zray://").split("/")


def checked(*arguments: str):
    parsed = parser().parse_args(list(arguments))
    return offer(parsed, Config.load({})), membership(parsed)


@pytest.mark.parametrize(("arguments", "why"), [
    (("--num-cpus", "-1"), "CPU.*negative"),
    (("--num-cpus", "nan"), "CPU.*nan"),
    (("--num-cpus", "inf"), "CPU.*inf"),
    (("--num-gpus", "-0.5"), "GPU.*negative"),
    (("--num-cpus", "1e30"), "CPU.*too much"),
    (("--resources", f'{{"a": {UNITS_MAX}}}'), "a.*too much"),
    (("--resources", '{"a": "b"}'), "'a'.*'b'"),
    (("--resources", '{"a": NaN}'), "'a'.*nan"),
    (("--resources", '{"a": -1e-3}'), "'a'.*negative"),
    (("--resources", '{"CPU": 2}'), "--num-cpus"),
    (("--resources", "[1]"), "--resources takes a JSON object"),
    (("--resources", "{"), "--resources.*not JSON"),
    (("--labels", '{"zone": 1}'), "'zone' takes a string"),
    (("--object-store-memory", "5"), "--object-store-memory takes at least"),
    (("--object-store-memory", "-5"), "--object-store-memory takes at least"),
    (("--head", "--port", "70000"), "--port takes a number"),
    (("--head", "--port", "-1"), "--port takes a number"),
    (("--head", "--port-range", "5"), "--port-range takes two ports"),
    (("--head", "--port-range", "30000-20000"), "--port-range takes two ports"),
    (("--head", "--port-range", "0-10"), "--port-range takes two ports"),
    (("--head", "--port-range", "a-b"), "--port-range takes two ports"),
    (("--head", "--address", JOIN), "give one of them"),
    (("--node-name", "n" * 257, "--head"), "--node-name takes at most"),
])
def test_a_wrong_argument_is_refused(arguments, why):
    with pytest.raises(BadOption, match=why):
        checked(*arguments)


@pytest.mark.parametrize(("join", "why"), [
    (JOIN[:-30], "cut off"),
    (JOIN[:12], "does not begin with an address"),
    (f"zray://{PLACE}/{CODE[:40]}{'A' if CODE[40] != 'A' else 'B'}{CODE[41:]}", "damaged in copying"),
    (f"zray://127.0.0.2:6379/{CODE}", "damaged in copying"),
    (JOIN + "AA", "damaged in copying"),
    ("hello", "is not a join string"),
    ("127.0.0.1:6379", "an address without keys"),
    ("redis://host/1", "an address of another kind"),
    ("/tmp/join", "is a path"),
    ("   ", "is empty"),
])
def test_a_wrong_join_string_is_refused(join, why):
    _, options = checked("--address", join)
    with pytest.raises(BadOption, match=why):
        _ticket(options)


def test_a_join_string_may_be_broken_over_lines_but_not_over_kinds_of_clusters():
    _, options = checked("--address", f"{JOIN[:40]}\n  {JOIN[40:]}")
    assert _ticket(options).cluster == b"c" * 16
    _, options = checked("--address", JOIN, "--insecure")
    with pytest.raises(BadOption, match="join it without --insecure"):
        _ticket(options)
    open_one = encode_join(JoinString("127.0.0.1", 6379, b"c" * 16, b"node", bytes(32), b"t" * 32, 2e9))
    _, options = checked("--address", open_one)
    with pytest.raises(BadOption, match="join it with --insecure"):
        _ticket(options)


def test_a_temporary_directory_of_ones_own_hides_what_runs_elsewhere(monkeypatch):
    monkeypatch.setenv("ZRAY_TMPDIR", "/var/tmp/mine")
    assert base_dirs() == [f"/var/tmp/mine/zray-{os.getuid()}"]
    monkeypatch.setenv("ZRAY_TMPDIR", "/var/tmp/" + "long" * 30)
    assert base_dirs()[1:] == [f"/tmp/zray-{os.getuid()}"]
