"""Fixtures of the end-to-end tests: real daemons, real workers, and a leak check after every session.

``cluster``  a running session of 4 logical CPUs, shared by the tests of one module (a test that shuts it down costs
             the next one a start, nothing else).
``fresh``    no session is running; after the test there must again be none, and nothing left of any.
``grow``     ``grow(args, args, ...)`` starts a cluster of such nodes and connects to the first; nothing of it may be
             left after the test.  A module that shares one uses the same context, ``nodes.clusters``.
"""

from __future__ import annotations

import contextlib
import tempfile

import pytest

from tests.e2e.leaks import Footprint
from tests.e2e.nodes import clusters
from tests.e2e.target import IS_ZRAY, Gate, ray

CPUS = 4


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("zray_only") and not IS_ZRAY:
            item.add_marker(pytest.mark.skip(reason="zray's own"))


@pytest.fixture(scope="session", autouse=True)
def session_root():
    """Sessions of these tests live in a directory of their own, short enough for socket paths."""
    with (tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp", ignore_cleanup_errors=True) as root,
          pytest.MonkeyPatch.context() as patch):
        patch.setenv("ZRAY_TMPDIR", root)
        yield root


@contextlib.contextmanager
def leaves_nothing(session_root):
    """At the end the session that runs is over, and nothing is left of any."""
    footprint = Footprint(session_root) if IS_ZRAY else None
    yield footprint
    if footprint:
        footprint.watch()
    ray.shutdown()
    if footprint:
        footprint.check()


@pytest.fixture(scope="module")
def module_footprint(session_root):
    """Leak check around all sessions of a module."""
    with leaves_nothing(session_root) as footprint:
        yield footprint


@pytest.fixture
def cluster(module_footprint):
    if not ray.is_initialized():
        ray.init(num_cpus=CPUS)
    yield ray
    if module_footprint:
        module_footprint.watch()


@pytest.fixture
def fresh(session_root):
    ray.shutdown()
    with leaves_nothing(session_root) as footprint:
        yield footprint


@pytest.fixture
def grow(session_root):
    with clusters(session_root) as start:
        yield start


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.open()  # nobody stays behind, whatever the test did
