"""`zray doctor` names what is wrong, and the exit code says whether something fails."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("click")
from click.testing import CliRunner  # noqa: E402

from zray.cli import doctor, main  # noqa: E402


@pytest.fixture
def root():
    """Where sessions are; a short path, else those of the machine count, too."""
    with tempfile.TemporaryDirectory(prefix="zd-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def checked(monkeypatch, root):
    """``checked(columns)`` runs it in a directory of sessions of its own: (exit code, output)."""
    monkeypatch.setenv("ZRAY_TMPDIR", str(root))

    def run(*arguments: str, columns: int = 300) -> tuple[int, str]:
        done = CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["doctor", *arguments])
        return done.exit_code, done.output

    return run


def test_all_subjects_are_checked_and_the_text_fits_the_window(checked):
    code, said = checked("--format", "json")
    findings = json.loads(said)
    assert {one["subject"] for one in findings} >= {"system", "interpreter", "libzmq", "shm", "disk", "limits", "ports",
                                                    "clock", "sessions"}
    assert code == any(one["level"] == doctor.FAIL for one in findings)
    assert max(map(len, checked(columns=40)[1].splitlines())) <= 40


def test_what_fails_is_named_and_the_exit_code_is_1(checked, monkeypatch):
    monkeypatch.setattr(doctor, "shm_bytes", lambda: 1 << 20)
    code, said = checked()
    assert code == 1 and "FAIL  /dev/shm has 1.0 MiB free" in said


def test_a_session_that_is_broken_is_named_and_an_ended_one_counted(checked, root):
    base = root / f"zray-{os.getuid()}"
    (base / "half" / "logs").mkdir(parents=True)
    (base / "half" / "node.json").write_text("{")
    (base / "ended" / "logs").mkdir(parents=True)
    _, said = checked()
    assert "0 live sessions" in said and "1 ended session with logs" in said
    assert f"note  no zray node of this user runs in '{base / 'half'}'" in said and "node.json cannot be read" in said


def test_a_clock_of_long_ago_fails(checked, monkeypatch):
    monkeypatch.setattr(doctor.time, "time", lambda: 1000.0)
    assert [finding.level for finding in doctor._clock()] == [doctor.FAIL]
