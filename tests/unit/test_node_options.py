"""Arguments of a node that make no sense are refused in one sentence that names the option."""

from __future__ import annotations

import os

import pytest

from zray.base.config import Config
from zray.node.peers.entry import _ticket
from zray.node.running.options import BadOption, membership, name_node, offer, parser
from zray.node.running.session import base_dirs
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
    (("--object-store-memory", "nan"), "--object-store-memory takes a number of bytes, not nan"),
    (("--memory", "inf"), "--memory takes a number of bytes, not inf"),
    (("--memory", "-1"), "memory.*negative"),
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


@pytest.mark.parametrize(("visible", "wanted", "ids"), [
    ("2,3", "2", [2, 3]), ("2,3", "1", [2, 3]), (" GPU-a , MIG-b ", "2", ["GPU-a", "MIG-b"]), ("0,-1,5", "1", [0]),
    (None, "2", None), ("", "0", []),
])
def test_cuda_visible_devices_names_the_gpus_of_a_node(monkeypatch, visible, wanted, ids):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    offered, _ = checked("--num-gpus", wanted)
    assert offered.gpu_ids == ids and offered.total.get("GPU", 0) == int(wanted) * 10_000


def test_a_node_has_no_more_gpus_than_cuda_visible_devices_names(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(BadOption, match="at most 2 here, not 3: CUDA_VISIBLE_DEVICES is '2,3'"):
        checked("--num-gpus", "3")


def test_sizes_may_be_floats_and_are_whole_bytes():
    offered, _ = checked("--object-store-memory", "1e8", "--memory", "42857142.857")
    assert offered.store_bytes == 100_000_000 and offered.total["memory"] == 42_857_142 * 10_000


def test_a_node_is_a_resource_and_the_first_one_two():
    first, other = (checked("--num-cpus", "1")[0] for _ in range(2))
    name_node(first, "10.0.0.1", first=True)
    name_node(other, "10.0.0.2", first=False)
    assert {name for name in first.total if name.startswith("node:")} == {"node:10.0.0.1", "node:__internal_head__"}
    assert {name for name in other.total if name.startswith("node:")} == {"node:10.0.0.2"}
