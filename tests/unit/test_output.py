"""Worker output where the kernel does not tell which files were written to; the bounds of log files."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

import pytest

from zray.base import os_linux
from zray.node.processes import linux, output as output_module
from zray.node.processes.output import RESCAN_S, Output
from zray.node.processes.zygote import log_paths
from zray.node.running import journal as journal_module


def test_without_inotify_every_file_in_use_is_read_at_each_look(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: str) -> NoReturn:
        raise OSError(errno.EMFILE, "the user's instances of inotify are used up")

    monkeypatch.setattr(linux, "watch_directory", refuse)
    os.mkdir(tmp_path / "logs")
    output = Output(str(tmp_path), 1000)
    assert output.fd == -1
    workers = [bytes([n]) * 28 for n in range(200)]
    for worker in workers:
        output.add(worker)
        output.assign(worker[:8], 1, 7)
    with open(log_paths(str(tmp_path), workers[5])[0], "w") as file:
        file.write("said\n")
    assert output.note_writes()
    assert output.read() == ({1: [["", 7, False, "said"]]}, {})
    assert output.rescan_s == pytest.approx(3 * RESCAN_S)  # the more files, the rarer
    output.close()


def test_the_log_of_a_worker_is_bounded_and_the_driver_misses_no_line(tmp_path):
    os.mkdir(tmp_path / "logs")
    output = Output(str(tmp_path), 100_000, 1 << 16)
    worker = b"w" * 28
    output.add(worker)
    output.assign(worker[:8], 1, 7)
    path = log_paths(str(tmp_path), worker)[0]
    seen: list[str] = []
    with open(path, "a") as file:
        for start in range(0, 50_000, 500):
            file.write("".join(f"line {number}\n" for number in range(start, start + 500)))
            file.flush()
            while output.note_writes():
                seen += [line[3] for line in output.read()[0].get(1, [])]
            assert os.stat(path).st_blocks * 512 < 3 << 16, "the disk holds no more"
    assert seen == [f"line {number}" for number in range(50_000)] and output.take_skipped() == 0
    output.remove(worker[:8])
    with open(path) as file:
        text = file.read()
    assert len(text) < 1 << 17 and text.startswith("(the first ") and text.endswith("line 49999\n")
    output.close()


def test_lines_that_nobody_could_read_in_time_are_counted(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output_module, "READ_BYTES_MAX", 1 << 12)
    os.mkdir(tmp_path / "logs")
    output = Output(str(tmp_path), 100_000, 1 << 16)
    output.add(b"w" * 28)
    output.assign(b"w" * 8, 1, 7)
    with open(log_paths(str(tmp_path), b"w" * 28)[0], "a") as file:
        file.write("".join(f"line {number}\n" for number in range(20_000)))
    count = 0
    while output.note_writes():
        count += len(output.read()[0].get(1, []))
    assert output.take_skipped() > 0
    output.close()


def test_the_log_of_a_node_is_bounded_keeps_what_came_before_it_opened_and_cuts_secrets(tmp_path):
    os.mkdir(tmp_path / "logs")
    journal = journal_module.Journal(str(tmp_path), 1000)
    journal.note("before: join zray://abcdef0123456789 now")
    journal.open(take_output=False)
    text = (tmp_path / "logs" / "node.log").read_text()
    assert "before: join zray://(secret) now" in text and "abcdef" not in text
    for number in range(200):
        journal.note(f"event {number}")
    try:
        raise ValueError("a bug")
    except ValueError as error:
        journal.note("internal error", error)
    journal.close()
    assert sorted(os.listdir(tmp_path / "logs")) == ["node.log", "node.log.1"]
    assert all(os.stat(tmp_path / "logs" / name).st_size < 2500 for name in os.listdir(tmp_path / "logs"))
    assert "ValueError: a bug" in (tmp_path / "logs" / "node.log").read_text()


def test_a_session_directory_is_stripped_although_some_of_it_vanishes_meanwhile(
        tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Drivers and workers remove their sockets while their node ends: its secrets and spilled objects must go."""
    for name in ("d-1.sock", "join", "node.json", "w-1.sock"):
        (tmp_path / name).write_text("x")
    (tmp_path / "spill").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "node.log").write_text("words")
    (tmp_path / "logs" / "empty.out").write_text("")
    entries = os_linux._entries

    def entries_that_vanish(directory: str) -> list[os.DirEntry[str]]:
        found = entries(directory)
        for name in ("d-1.sock", "w-1.sock"):
            (tmp_path / name).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os_linux, "_entries", entries_that_vanish)
    os_linux.strip(str(tmp_path), "logs")
    assert os.listdir(tmp_path) == ["logs"]
    assert os.listdir(tmp_path / "logs") == ["node.log"]
