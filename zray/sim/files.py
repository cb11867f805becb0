"""Files of checkpoints in memory."""

from __future__ import annotations


class MemoryFiles:
    """The folder of checkpoints of one simulated node; see zray.node.actors.checkpoints.Files."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._unfinished: dict[str, bytes] = {}

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in {*self.files, *self._unfinished} if name.startswith(prefix))

    def size(self, file: str) -> int:
        return len(self.files[file]) if file in self.files else -1

    def read(self, file: str, offset: int, nbytes: int) -> bytes:
        return self.files.get(file, b"")[offset:offset + nbytes]

    def write(self, file: str, offset: int, data: bytes, last: bool) -> bool:
        self._unfinished[file] = self._unfinished.get(file, b"")[:offset] + data
        if last:
            self.files[file] = self._unfinished.pop(file)
        return True

    def remove(self, file: str) -> None:
        self.files.pop(file, None)
        self._unfinished.pop(file, None)
