"""Two rings between two processes of one node, and a socket that wakes and tells of the other's end.

    offering side                                          other side
    DuplexOffer(path)               -- path, by a frame -->  DuplexAnswer(path)
    DuplexOffer.accept() -> Duplex  -- memory ------------>  DuplexAnswer.receive() -> Duplex

The memory has no name (memfd): it goes with the two processes, however they end.  The path is removed when the other
side has connected.  The memory is sealed, so that nobody can shrink it under a reader (SIGBUS).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct

from zray.channels.ring import RING_BYTES, RingReader, RingWriter

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_HEAD = struct.Struct("<4sI")  # magic, generation
_MAGIC = b"zrd1"
_KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class Refused(Exception):
    """No channel comes of this: the other side has ended, or has sent something else; or the system grants no more."""


class DuplexOffer:
    """A path where the other side may connect, once."""

    def __init__(self, path: str):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, _KIND)
        try:
            self._socket.bind(path)
            self._socket.listen(1)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> Duplex:
        """The channel, when :meth:`fileno` is readable.  Refused."""
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            raise Refused(str(error)) from None
        connection.setblocking(False)
        handle = -1
        try:
            handle = os.memfd_create("zray-rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(handle, 2 * RING_BYTES)
            fcntl.fcntl(handle, fcntl.F_ADD_SEALS, _SEALS)
            memory = mmap.mmap(handle, 2 * RING_BYTES)
            generation = int.from_bytes(os.urandom(4), "little")
            socket.send_fds(connection, [_HEAD.pack(_MAGIC, generation)], [handle])
        except OSError as error:
            connection.close()
            raise Refused(str(error)) from None
        finally:
            if handle >= 0:
                os.close(handle)
        return Duplex(connection, memory, generation, writes_first=True)

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):  # the session's folder may be gone
            os.unlink(self.path)


class DuplexAnswer:
    """The connection to an offer; the memory is on its way."""

    def __init__(self, path: str):
        try:
            self._socket = socket.socket(socket.AF_UNIX, _KIND)
        except OSError as error:
            raise Refused(str(error)) from None
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Refused(str(error)) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Duplex:
        """The channel, when :meth:`fileno` is readable.  Refused; then this is closed."""
        handles: list[int] = []
        try:
            head, handles, _, _ = socket.recv_fds(self._socket, _HEAD.size, 1)
            if len(head) != _HEAD.size or len(handles) != 1:
                raise Refused("the other side has ended, or sent no memory")
            magic, generation = _HEAD.unpack(head)
            if (magic != _MAGIC or os.fstat(handles[0]).st_size != 2 * RING_BYTES
                    or fcntl.fcntl(handles[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS):
                raise Refused("this is not the memory of a channel")
            memory = mmap.mmap(handles[0], 2 * RING_BYTES)
        except (OSError, Refused) as error:
            self.close()
            raise Refused(str(error)) from None
        finally:
            for handle in handles:
                os.close(handle)
        return Duplex(self._socket, memory, generation, writes_first=False)

    def close(self) -> None:
        self._socket.close()


class Duplex:
    """A ring for each direction.  ``fileno()`` is readable when the other side has rung, or has ended."""

    def __init__(self, connection: socket.socket, memory: mmap.mmap, generation: int, writes_first: bool):
        self._socket = connection
        self._memory = memory
        self._fd = connection.fileno()
        view = memoryview(memory)
        first, second = view[:RING_BYTES], view[RING_BYTES:]
        view.release()
        ours, theirs = (first, second) if writes_first else (second, first)
        self.writer = RingWriter(ours, generation)
        self.reader = RingReader(theirs, generation)

    def fileno(self) -> int:
        return self._fd

    def wake(self) -> bool:
        """Wake the reader of the other side; False when it has ended."""
        try:
            os.write(self._fd, b"\1")
        except BlockingIOError:
            return True  # so many wake-ups are on their way
        except OSError:
            return False
        return True

    def woken(self) -> bool:
        """Take the wake-ups that have come; False when the other side has ended."""
        try:
            return bool(os.read(self._fd, 4096))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self._memory.close()
        self._socket.close()
