"""Answers questions about the log files of a node: their names, and pieces of one."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from typing import Any

PIECE_BYTES_MAX = 4 * 1024 * 1024  # of one answer; a reader asks again for the rest
TAIL_BLOCK_BYTES = 64 * 1024


def answer(directory: str, args: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question about logs.

        {"glob"}            the files
        {"file", "lines"}   the last lines of one; -1 for all
        {"file", "offset"}  what was written from there on

    ``offset`` in the answer is the end of what was read."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        return {"error": f"the logs of this node cannot be listed: {error.strerror}"}
    name = args.get("file")
    if name is None:
        pattern = str(args.get("glob") or "*")
        return {"logs": [{"name": found, "size": os.path.getsize(os.path.join(directory, found))}
                         for found in names if fnmatch(found, pattern)]}
    if name not in names:  # so no path leads out of the directory
        return {"error": f"this node has no log file {name!r}"}
    with open(os.path.join(directory, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = args.get("offset")
        start = offset if isinstance(offset, int) and offset >= 0 else _start_of_tail(file, size, args.get("lines"))
        file.seek(start)
        data = file.read(PIECE_BYTES_MAX)
    return {"logs": [], "data": data, "offset": start + len(data), "size": size}


def _start_of_tail(file: Any, size: int, lines: Any) -> int:
    """The offset of the first of the last ``lines`` lines."""
    if not isinstance(lines, int) or lines < 0:
        return 0
    if lines == 0:
        return size
    at, found = size, 0
    while at > 0:
        begin = max(0, at - TAIL_BLOCK_BYTES)
        file.seek(begin)
        block = file.read(at - begin)
        position = len(block) - 1 if at == size and block.endswith(b"\n") else len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            found += 1
            if found == lines:
                return begin + position + 1
        at = begin
    return 0
