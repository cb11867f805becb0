"""Random and mutated frames against envelope, session, codec and real sockets.

    python -m fuzz.fuzz_codec --seconds 30

Nothing but Malformed and MalformedFrame may ever come out, pickle may never be touched, and a
mesh that was shouted at must still hold its invariants and answer.
"""

from __future__ import annotations

import sys
import tempfile
import time
from random import Random
from typing import Any

from fuzz.command import by_seed
from zray.transport import envelope
from zray.transport.session import EPOCH_SHIFT, Session
from zray.wire.codec import Malformed, decode, encode
from zray.wire.messages import BY_CODE, FIELD_TYPES

_PICKLES: list[str] = []


def watch_pickle() -> None:
    """Record every class that an unpickler looks up, for as long as the process lives."""
    sys.addaudithook(lambda event, args: _PICKLES.append(repr(args)) if event == "pickle.find_class" else None)


def random_value(random: Random, kind: type) -> Any:
    """A value of a wire type."""
    if kind is int:
        return random.choice((0, 1, -1, 127, 128, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, random.getrandbits(40)))
    if kind is float:
        return random.choice((0.0, -1.5, float("inf"), 1e300))
    if kind is bool:
        return random.random() < 0.5
    if kind is str:
        return "".join(random.choices("aé\u2028\0 z", k=random.randrange(8)))
    if kind is bytes:
        return random.choice((b"", b"cos\nsystem\n", b"\x80\x04c", random.randbytes(random.randrange(40))))
    if kind is list:
        return [random_value(random, random.choice((int, bytes, list, str))) for _ in range(random.randrange(3))]
    if kind is dict:
        return {random_value(random, str): random_value(random, int) for _ in range(random.randrange(3))}
    return None


def random_body(random: Random) -> bytes:
    """A body of declared messages with well-typed random fields."""
    flat: list[Any] = []
    for _ in range(random.randrange(4)):
        code = random.choice(list(BY_CODE))
        fields = [random_value(random, random.choice(sorted(kinds, key=str))) for kinds in FIELD_TYPES[code]]
        flat += (code, fields)
    return encode(flat)


def mutate(random: Random, raw: bytes) -> bytes:
    """Flip, cut, insert or repeat some bytes."""
    out = bytearray(raw)
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(len(out) + 1)
        what = random.randrange(4)
        if what == 0 and at < len(out):
            out[at] = random.randrange(256)
        elif what == 1:
            del out[at:at + random.randrange(1, 9)]
        elif what == 2:
            out[at:at] = random.randbytes(random.randrange(1, 9))
        else:
            out[at:at] = out[at // 2:at]
    return bytes(out[:65536])


def random_frame(random: Random, source: bytes, destination: bytes) -> bytes:
    """A frame that is valid, mutated, or noise."""
    sequence = (random.randrange(3) << EPOCH_SHIFT) + random.randrange(20)
    frame = envelope.pack(
        random.choice((0, 0, 0, 1, 2, 3, 65535)), 1, source, destination, sequence,
        random.choice((0, sequence, 2**64 - 1)), random.getrandbits(64),
    ) + random_body(random)
    choice = random.random()
    return frame if choice < 0.3 else mutate(random, frame) if choice < 0.9 else random.randbytes(random.randrange(200))


def run_pure(seed: int, frames: int) -> int:
    """Envelope, session and codec on random frames; returns how many messages were decoded."""
    random = Random(seed)
    session = Session(1, frames_max=8, bytes_max=4096)
    decoded = 0
    for i in range(frames):
        try:
            _, _, _, _, sequence, ack, _ = envelope.parse(random_frame(random, b"s" * 8, b"d" * 8))
        except envelope.MalformedFrame:
            continue
        session.on_ack(ack, float(i))
        body = random_body(random)
        decode(body)
        for ready in (mutate(random, body), *session.receive(sequence, body)):
            try:
                decoded += len(decode(ready))
            except Malformed:
                pass
        session.tick(float(i))
        session.check()
    return decoded


def run_mesh(seed: int, frames: int, directory: str) -> dict[str, int]:
    """Shout random frames at a real mesh, then show that it still talks; returns its counters."""
    import zmq  # noqa: PLC0415  (the pure part runs without sockets)

    from zray.transport.mesh import Mesh  # noqa: PLC0415
    from zray.wire.messages import Bye  # noqa: PLC0415

    random = Random(seed)
    heard: list[Any] = []
    errors: list[Exception] = []
    mesh = Mesh(b"d" * 8, 1, f"ipc://{directory}/victim", encode, decode, time.monotonic)
    friend = Mesh(b"f" * 8, 1, None, encode, decode, time.monotonic)
    mesh.on_error = errors.append
    context = zmq.Context()
    attacker = context.socket(zmq.DEALER)
    attacker.setsockopt(zmq.ROUTING_ID, b"s" * 8 + b"0001")
    attacker.setsockopt(zmq.LINGER, 0)
    attacker.connect(mesh.endpoint)
    try:
        for _ in range(frames):
            parts = [random_frame(random, b"s" * 8, b"d" * 8) for _ in range(random.choice((1, 1, 1, 1, 2)))]
            attacker.send_multipart(parts)
            mesh.drain(lambda peer, code, message: None)
            mesh.flush()
        friend.connect(mesh.incarnation, mesh.endpoint)
        friend.send(mesh.incarnation, Bye.CODE, Bye("still there?"))
        friend.flush()
        give_up = time.monotonic() + 10
        while Bye("still there?") not in heard or not mesh.counters["malformed"]:  # two connections, in any order
            assert time.monotonic() < give_up, "the mesh no longer listens"
            mesh.poll(0.1)
            mesh.clear_wake()
            mesh.drain(lambda peer, code, message: heard.append(message))
            mesh.tick(mesh.clock())
        mesh.check()
        assert not errors, errors
        return dict(mesh.counters)
    finally:
        attacker.close(0)
        context.term()
        friend.close()
        mesh.close()


def run(seed: int) -> None:
    run_pure(seed, 500)
    with tempfile.TemporaryDirectory() as directory:
        run_mesh(seed, 300, directory)
    assert not _PICKLES, _PICKLES


if __name__ == "__main__":
    watch_pickle()
    raise SystemExit(by_seed(run, __doc__))
