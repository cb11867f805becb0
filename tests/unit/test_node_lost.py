"""A core process whose node has gone."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.target import until
from zray.base import ids
from zray.base.config import Config
from zray.core.runtime import Runtime


def test_who_asks_late_hears_that_the_node_could_not_be_dialled(tmp_path: Path) -> None:
    """Else a worker that was slow to ask would wait for ever for a node that does not know it."""
    node = ids.node_of(ids.new_incarnation())
    me = ids.worker_id(node, 1)[:ids.INCARNATION_SIZE]
    runtime = Runtime("worker", me, node, f"ipc://{tmp_path}/nobody", f"ipc://{tmp_path}/me", 0, Config())
    try:
        until(lambda: runtime.submitter.lost is not None)
        heard: list[str] = []
        runtime.when_node_lost(lambda: heard.append("lost"))
        assert heard == ["lost"]
    finally:
        runtime.process.closed = True
        runtime.loop.stop()
        runtime.mesh.close(0)
