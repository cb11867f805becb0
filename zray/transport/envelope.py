"""The envelope: 48 bytes before every body, readable without decoding the body.

    offset  0  magic 0x5A          1 byte
            1  protocol            1
            2  flags               2    ACK: no body, only the ack field counts; RESET: see zray.transport.session;
                                     GONE: from a relay, in the name of a process that it cannot reach; OFFER: the
                                     body is the path of a way through shared memory, see zray.transport.shared
            4  job                 4
            8  source              8    incarnation of the sender
           16  destination         8    incarnation of the receiver
           24  sequence            8    of this frame from source to destination; 0 with a flag
           32  ack                 8    every frame up to this one has arrived (on RESET: the frame that was refused)
           40  trace               8

All integers are little endian.  Relays and tracers need nothing but this.
"""

from __future__ import annotations

from struct import Struct

MAGIC = 0x5A
FRAME_PROTOCOL = 1
ACK = 1
RESET = 2
GONE = 4
OFFER = 8

_HEADER = Struct("<BBHI8s8sQQQ")
SIZE = _HEADER.size
_pack = _HEADER.pack
_unpack = _HEADER.unpack_from

Header = tuple[int, int, bytes, bytes, int, int, int]


class MalformedFrame(ValueError):
    """Bytes that do not begin with an envelope of this protocol."""


def pack(flags: int, job: int, source: bytes, destination: bytes, sequence: int, ack: int, trace: int = 0) -> bytes:
    """The 48 bytes of a header."""
    return _pack(MAGIC, FRAME_PROTOCOL, flags, job, source, destination, sequence, ack, trace)


def parse(frame: bytes | memoryview) -> Header:
    """``(flags, job, source, destination, sequence, ack, trace)`` of a frame; raises MalformedFrame."""
    if len(frame) < SIZE:
        raise MalformedFrame(f"{len(frame)} bytes are too few for an envelope")
    magic, protocol, flags, job, source, destination, sequence, ack, trace = _unpack(frame)
    if magic != MAGIC:
        raise MalformedFrame(f"magic is {magic:#04x}")
    if protocol != FRAME_PROTOCOL:
        raise MalformedFrame(f"protocol {protocol} is not spoken here")
    return flags, job, source, destination, sequence, ack, trace
