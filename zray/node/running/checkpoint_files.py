"""The folder of checkpoints in the directory of a node's session: see zray.node.actors.checkpoints."""

from __future__ import annotations

import contextlib
import os

from zray.base.checkpoint_names import CHECKPOINT_FOLDER, PARTIAL


class DiskFiles:
    """Files of one session."""

    def __init__(self, session_dir: str):
        self._folder = os.path.join(session_dir, CHECKPOINT_FOLDER)

    def names(self, prefix: str) -> list[str]:
        try:
            found = os.listdir(self._folder)
        except FileNotFoundError:  # no actor has checkpoints
            return []
        return sorted({name.removesuffix(PARTIAL) for name in found if name.startswith(prefix)})

    def size(self, file: str) -> int:
        try:
            return os.stat(self._path(file)).st_size
        except OSError:
            return -1

    def read(self, file: str, offset: int, nbytes: int) -> bytes:
        try:
            with open(self._path(file), "rb", buffering=0) as source:
                source.seek(offset)
                return source.read(nbytes)
        except OSError:
            return b""

    def write(self, file: str, offset: int, data: bytes, last: bool) -> bool:
        path = self._path(file)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(path + PARTIAL, "r+b" if offset else "wb", buffering=0) as target:
                target.seek(offset)
                left = memoryview(data)
                while left:
                    left = left[target.write(left):]
            if last:
                os.rename(path + PARTIAL, path)
        except OSError:
            self.remove(file)
            return False
        return True

    def remove(self, file: str) -> None:
        for name in (file, file + PARTIAL):
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))

    def _path(self, file: str) -> str:
        return os.path.join(self._folder, os.path.basename(file))
