"""What stays of the folder of a session that has ended."""

from __future__ import annotations

import os

from zray.base import os_linux
from zray.node.running import session as sessions


def test_what_a_process_leaves_while_its_session_is_deleted_goes_too(tmp_path, monkeypatch):
    session, late = tmp_path / "s", iter(["d-1.sock", "w-2.sock"])
    (session / "logs").mkdir(parents=True)
    (session / "node.sock").touch()
    rmdir = os.rmdir

    def rmdir_beside_a_process_that_ends(path):
        if path == str(session) and (name := next(late, "")):
            (session / name).touch()
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", rmdir_beside_a_process_that_ends)
    os_linux.strip(str(session), "logs")
    assert not session.exists()


def test_logs_with_content_stay(tmp_path):
    (tmp_path / "s" / "logs").mkdir(parents=True)
    (tmp_path / "s" / "logs" / "node.log").write_text("kept")
    (tmp_path / "s" / "logs" / "empty.log").touch()
    os_linux.strip(str(tmp_path / "s"), "logs")
    assert os.listdir(tmp_path / "s") == ["logs"] and os.listdir(tmp_path / "s" / "logs") == ["node.log"]


def test_an_empty_folder_that_nobody_fills_is_one_of_an_ended_session(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "base_dirs", lambda: [str(tmp_path)])
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    os.utime(tmp_path / "old", (0, 0))
    assert sessions.ended_sessions() == [str(tmp_path / "old")]


def test_an_error_says_why_no_node_can_be_asked_in_a_folder(tmp_path, monkeypatch):
    def why(name: str, *parts: str, node: str = "") -> str:
        folder = tmp_path / name
        folder.mkdir()
        for part in parts:
            (folder / part).mkdir()
        if node:
            (folder / "node.json").write_text(node)
        return sessions.why_none(str(folder))

    dead = sessions.NodeSession("s", b"n", "n", "ipc://x", pid=os.getpid(), start_time=1, shares_fate=True, started=0.0)
    assert "has ended without cleaning up" in why("dead", "logs", "spill", node=dead.to_json())
    assert "its node.json cannot be read" in why("half-written", "logs", "spill", node='{"session_dir": "')
    assert "it has no node.json" in why("begun", "logs", "spill")
    assert "only its logs are left" in why("ended", "logs")
    assert "--session kept-rows; its logs" in why("kept-rows", "logs", "state")
    assert "that is no session directory" in why("other")
    assert "cannot be read: No such file" in sessions.why_none(str(tmp_path / "none"))
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert "belongs to another user" in sessions.why_none(str(tmp_path / "dead"))
