"""Worker output where the kernel does not tell which files were written to."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

import pytest

from zray.node import linux
from zray.node.output import RESCAN_S, Output
from zray.node.zygote import log_paths


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
