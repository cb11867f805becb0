"""Large transfers of memory by several threads at once: the kernel makes, clears or copies the pages of each.

A core makes 100 MB of pages in some 14 ms, and fills them in as much.  Two cores need half of that, and no more
processor time in sum (measured on Linux 6.18).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable

PART_BYTES_MIN = 8 * 1024 * 1024  # a thread costs 0.1 ms, in which a core makes 1 MB
PARTS_MAX = 4  # more cores share the bandwidth of the memory


def in_parts(length: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(start, length)`` for parts of ``length`` bytes, at the same time; they begin at pages.

    ``work`` has to release the GIL.  Returns when all have ended; then raises the error of the first that failed.
    """
    count = min(PARTS_MAX, len(os.sched_getaffinity(0)), length // PART_BYTES_MIN)
    if count < 2:
        work(0, length)
        return
    step = length // count // mmap.PAGESIZE * mmap.PAGESIZE
    parts = [(index * step, step if index < count - 1 else length - index * step) for index in range(count)]
    errors: list[BaseException | None] = [None] * count

    def run(index: int) -> None:
        try:
            work(*parts[index])
        except BaseException as error:  # raised again by the caller, below
            errors[index] = error

    threads: list[threading.Thread] = []
    with contextlib.suppress(RuntimeError):  # no more threads: the caller does the rest
        for index in range(1, count):
            thread = threading.Thread(target=run, args=(index,), name=f"zray-part-{index}", daemon=True)
            thread.start()
            threads.append(thread)
    for index in (0, *range(1 + len(threads), count)):
        run(index)
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as interrupt:  # it must not leave threads that write to what is given back
                errors[0] = errors[0] or interrupt
    for found in errors:
        if found is not None:
            raise found
