"""A join string is taken from where it is named, and hidden where it must not be seen."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from zray.node.running import join_secret
from zray.node.running.join_secret import NoJoinString, hide, join_string, without_secrets
from zray.node.running.launch import NodeOptions
from zray.node.running.options import membership, parser
from zray.transport.credentials import JoinString, encode_join

JOIN = encode_join(JoinString("127.0.0.1", 6379, b"c" * 16, b"node", b"k" * 32, b"t" * 32, 2e9))
SECRET = JOIN.rpartition("/")[2]


def test_it_is_given_by_file_standard_input_variable_or_itself(tmp_path, monkeypatch):
    file = tmp_path / "join"
    file.write_text(f"  {JOIN[:50]}\n{JOIN[50:]}\n")  # as a mail program breaks it
    monkeypatch.setattr(sys, "stdin", io.StringIO(JOIN + "\n"))
    assert [join_string(given, {}) for given in (JOIN, f"@{file}", "-", "")] == [JOIN, JOIN, JOIN, ""]
    for environ in ({"ZRAY_JOIN": JOIN}, {"ZRAY_JOIN": f"@{file}\n"}):
        assert join_string("", environ) == JOIN
        assert join_string("", environ, head=True) == "", "a head starts a cluster of its own"
        assert join_string("zray://other", environ) == "zray://other"


def test_a_place_without_one_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_text("x" * 5000)
    (tmp_path / "join").write_text(JOIN)
    for given, why in ((f"@{tmp_path}/none", "cannot read.*No such file"), (f"@{tmp_path}/binary", "not text"),
                       (f"@{tmp_path}/long", "more than 4096 bytes"), (f"{tmp_path}/join", "write --address @")):
        with pytest.raises(NoJoinString, match=why):
            join_string(given, {})


def test_it_reaches_a_daemon_by_a_descriptor_and_not_by_its_arguments():
    options = NodeOptions(address=JOIN, num_cpus=1)
    assert SECRET not in " ".join(options.arguments()) and SECRET not in repr(options)
    arguments = parser().parse_args(["--address-fd", str(join_secret.descriptor(JOIN))])
    found = membership(arguments)
    assert found.address == JOIN and SECRET not in repr(found)


def test_texts_and_environments_are_cleaned():
    assert hide(f"unexpected ({JOIN}), '{JOIN}'") == "unexpected (zray://127.0.0.1:6379/...), 'zray://127.0.0.1:6379/...'"
    assert hide("nothing here") == "nothing here"
    environ = {"ZRAY_JOIN": "@file", "ZRAY_ADDRESS": f" {JOIN}", "RAY_ADDRESS": "auto", "HOME": "/"}
    assert without_secrets(environ) == {"RAY_ADDRESS": "auto", "HOME": "/"}


def test_what_the_kernel_shows_of_a_process_is_overwritten():
    program = """
import os, subprocess, sys
from zray.node.running import join_secret
join_secret.forget_own()
sys.stdout.write(open("/proc/self/cmdline").read() + open("/proc/self/environ").read() + repr(dict(os.environ)))
sys.stdout.flush()
sys.stdout.write(subprocess.run(["env"], capture_output=True, text=True).stdout)
"""
    env = {**os.environ, "ZRAY_JOIN": JOIN, "ZRAY_ADDRESS": JOIN, "KEPT": "kept", "PYTHONPATH": os.getcwd()}
    said = subprocess.run([sys.executable, "-c", program, "--address", JOIN, f"--address={JOIN}"], env=env, text=True,
                          capture_output=True, check=True).stdout
    assert SECRET not in said and "--address\0***" in said and said.count("kept") == 3
