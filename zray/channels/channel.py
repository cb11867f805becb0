"""One writer, some readers, messages in order: small ones in a socket, large ones in memory that all of them map.

    writer                                    reader
    connect(path, channel)  ------------->    Listener.accept() -> {channel: socket}
    write(nbytes, fill, kind)  -- head -->    read() -> (payload, kind)
         \\-> slot n, in memory  ------------->  a copy

The memory of a slot has no name (memfd) and travels through the socket when it is new, so a process that is killed
leaves nothing.  The writer uses the slots in turn and asks nobody whether one is free: its user keeps the number of
unread messages at most at the number of slots.  When an end closes or dies, the other end gets ChannelClosed.

A socket of a Unix path carries both, and not a futex in the memory: it wakes a reader in the same time, works with poll
and tells the death of its other end.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import secrets
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable

INLINE_BYTES_MAX = 1024  # a larger message goes through memory: one copy of 10 KB costs less than two system calls
# So many small messages fit into the buffer of a socket.  A writer that waits for its reader could deadlock.
SLOTS_MAX = 64
RECEIVE_BYTES = 1 << 16
_HEAD = struct.Struct("<BBHxxxxQ")  # how, kind, slot, bytes of the payload
_INLINE, _SHARED, _SHARED_ANEW = 0, 1, 2
_NAME = struct.Struct("<I")
_FD_BYTES = array.array("i").itemsize


class ChannelClosed(Exception):
    """The other end has closed, or its process has ended."""


class ChannelTimeout(Exception):
    """Nothing arrived in time; a later read goes on where this one stopped."""


class Listener:
    """Where writers connect to the channels that a process reads."""

    def __init__(self, directory: str):
        self.path = os.path.join(directory, f"c-{secrets.token_hex(8)}.sock")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(self.path)
            self._socket.listen(socket.SOMAXCONN)
        except BaseException:
            self.close()
            raise

    def accept(self, channels: Iterable[int], slots: int, timeout_s: float) -> dict[int, Reader]:
        """A reader for each of ``channels``, when all have connected; ChannelTimeout otherwise."""
        wanted = set(channels)
        found: dict[int, Reader] = {}
        deadline = time.monotonic() + timeout_s
        try:
            while wanted - set(found):
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                connection, _ = self._socket.accept()
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                (name,) = _NAME.unpack(connection.recv(_NAME.size, socket.MSG_WAITALL))
                connection.setblocking(False)
                found[name] = Reader(connection, slots)
        except (TimeoutError, struct.error):
            for reader in found.values():
                reader.close()
            missing = sorted(wanted - set(found))
            raise ChannelTimeout(f"channels {missing} were not connected in {timeout_s:g} s") from None
        return found

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def connect(path: str, channel: int) -> socket.socket:
    """The writer's end of a channel to the process that listens at ``path``.  ChannelClosed when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        connection.sendall(_NAME.pack(channel))
    except OSError as error:
        connection.close()
        raise ChannelClosed(str(error)) from None
    return connection


class Writer:
    """Writes each message to all its readers."""

    def __init__(self, readers: list[socket.socket], slots: int, slot_bytes: int):
        self._readers = readers
        self._slots: list[mmap.mmap | None] = [None] * slots
        self._slot_bytes = slot_bytes  # of a new slot, more for a larger message
        self._next = 0

    def write(self, nbytes: int, fill: Callable[[memoryview], None], kind: int = 0) -> None:
        """Write a message of ``nbytes``, which ``fill`` puts into the memory that it gets.  ChannelClosed."""
        if nbytes <= INLINE_BYTES_MAX:
            message = bytearray(_HEAD.size + nbytes)
            _HEAD.pack_into(message, 0, _INLINE, kind, 0, nbytes)
            with memoryview(message) as view:
                fill(view[_HEAD.size:])
            self._send(message, None)
            return
        number = self._next
        self._next = (number + 1) % len(self._slots)
        memory, handle = self._slot(number, nbytes)
        try:
            with memoryview(memory) as view, view[:nbytes] as part:
                fill(part)
            self._send(_HEAD.pack(_SHARED if handle is None else _SHARED_ANEW, kind, number, nbytes), handle)
        finally:
            if handle is not None:
                os.close(handle)

    def _slot(self, number: int, nbytes: int) -> tuple[mmap.mmap, int | None]:
        """The memory of a slot, and its descriptor if it is new."""
        memory = self._slots[number]
        if memory is not None and len(memory) >= nbytes:
            return memory, None
        size = max(self._slot_bytes, 1 << (nbytes - 1).bit_length())
        handle = os.memfd_create("zray-channel", os.MFD_CLOEXEC)
        try:
            os.ftruncate(handle, size)
            fresh = mmap.mmap(handle, size)
        except BaseException:
            os.close(handle)
            raise
        self._slots[number] = fresh
        if memory is not None:
            memory.close()
        return fresh, handle

    def _send(self, message: bytes | bytearray, handle: int | None) -> None:
        rights = [] if handle is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [handle]))]
        try:
            for reader in self._readers:
                sent = reader.sendmsg([message], rights)
                if sent < len(message):
                    reader.sendall(memoryview(message)[sent:])
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        for memory in self._slots:
            if memory is not None:
                memory.close()
        self._slots = [None] * len(self._slots)


class Reader:
    """The reading end of a channel."""

    def __init__(self, connection: socket.socket, slots: int):
        self._socket = connection
        self._slots: list[mmap.mmap | None] = [None] * slots
        self._handles: deque[int] = deque()  # of new slots, in the order of their messages
        self._got = bytearray()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, deadline: float | None = None) -> tuple[bytes, int]:
        """The next message and its kind; waits until ``deadline``, a time of ``time.monotonic``."""
        while True:
            message = self._take()
            if message is not None:
                return message
            if not self._receive():
                left = None if deadline is None else (deadline - time.monotonic()) * 1000
                if left is not None and left <= 0:
                    raise ChannelTimeout
                self._poll.poll(left)

    def _receive(self) -> bool:
        """Take what has arrived; whether there was anything."""
        try:
            piece, rights, _, _ = self._socket.recvmsg(RECEIVE_BYTES, socket.CMSG_SPACE(4 * _FD_BYTES))
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        for level, kind, data in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                handles = array.array("i")
                handles.frombytes(data[:len(data) - len(data) % _FD_BYTES])
                self._handles += handles
        if not piece:
            raise ChannelClosed("the other end has ended")
        self._got += piece
        return True

    def _take(self) -> tuple[bytes, int] | None:
        """The first message, if all of it is here."""
        got = self._got
        if len(got) < _HEAD.size:
            return None
        how, kind, number, nbytes = _HEAD.unpack_from(got)
        end = _HEAD.size
        if how == _INLINE:
            end += nbytes
            if len(got) < end:
                return None
            payload = bytes(got[_HEAD.size:end])
        else:
            if how == _SHARED_ANEW:
                self._map(number)
            memory = self._slots[number]
            assert memory is not None, "the memory of a slot comes before its first message"
            payload = memory[:nbytes]
        del got[:end]
        return payload, kind

    def _map(self, number: int) -> None:
        handle = self._handles.popleft()
        old = self._slots[number]
        try:
            self._slots[number] = mmap.mmap(handle, os.fstat(handle).st_size, prot=mmap.PROT_READ)
        finally:
            os.close(handle)
        if old is not None:
            old.close()

    def interrupt(self) -> None:
        """End the channel: a read that waits, in another thread, gets ChannelClosed.

        A close would not do: poll goes on with a descriptor that is closed, or is another one's by now.
        """
        with contextlib.suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        while self._handles:
            os.close(self._handles.popleft())
        for memory in self._slots:
            if memory is not None:
                memory.close()
        self._slots = [None] * len(self._slots)
