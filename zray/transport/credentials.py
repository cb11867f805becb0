"""How a node enters a cluster, and admits others: key pair, allow-list, tickets, join strings.

In the session directory, all 0600 and read by every process of the node:

    cluster     id of the cluster, 32 hex digits
    node.key    the node's CURVE key pair; its core processes share it
    peers       the allow-list: one line for each key, replaced as a whole

        <public key> <node tag> node:<node tag>
        <public key> - ticket:<id> <expires, s since 1970> <uses left, 0: any number>

A *ticket* is a key pair that a join string carries.  It opens the handshake of one node's daemon,
so that a newcomer can introduce itself; from then on it uses its own key.  A ticket that is
unlisted, expired or used up is refused in the handshake.  The cluster's clock decides, because the
newcomer's may be wrong. A handshake uses up one use of a ticket, also when the newcomer is then
refused for another reason.

    zray://HOST:PORT/<base64url: version 1 | cluster 16 | node 4 | server key 32 | ticket 32 | expires 8 | checksum 4>
"""

from __future__ import annotations

import os
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct

from zray.base import ids
from zray.base.formats import JOIN_SCHEME
from zray.base.named_tuples import NamedTuple
from zray.base.os_linux import write_private
from zray.transport import curve
from zray.transport.mesh import Mesh

VERSION = 1
CLUSTER_SIZE = 16
TICKET_S = 30 * 86400.0  # so that clocks that differ by minutes, or days, do not matter
_PEERS_BYTES_MAX = 16 << 20
_RACY_S = 0.1  # files replaced within the clock's grain may look alike
_JOIN = Struct(f">B{CLUSTER_SIZE}s{ids.TAG_SIZE}s{curve.KEY_SIZE}s{curve.KEY_SIZE}sQ")
_CHECKSUM_SIZE = 4
_JOIN_CHARS = -(-(_JOIN.size + _CHECKSUM_SIZE) * 4 // 3)


class BadJoinString(ValueError):
    """Not a join string, or a damaged one; the message is one sentence for the user."""


class NotListed(ValueError):
    """A node or ticket cannot be put on the allow-list."""


# ---------------------------------------------------------------- the allow-list


class AllowedKey(NamedTuple):
    """One key of the allow-list; of a ticket, ``tag`` is b''."""

    key: bytes
    tag: bytes
    principal: str
    expires: float = 0.0
    uses: int = 0

    def to_line(self) -> str:
        line = f"{self.key.hex()} {self.tag.hex() or '-'} {self.principal}"
        return f"{line} {self.expires:.0f} {self.uses}\n" if not self.tag else f"{line}\n"

    @classmethod
    def from_line(cls, line: str) -> AllowedKey:
        key, tag, principal, *rest = line.split()
        expires, uses = rest or ("0", "0")
        entry = cls(bytes.fromhex(key), b"" if tag == "-" else bytes.fromhex(tag), principal, float(expires), int(uses))
        expected = node_principal(entry.tag) if entry.tag else f"ticket:{entry.principal.partition(':')[2]}"
        if len(entry.key) != curve.KEY_SIZE or principal != expected or bool(rest) == bool(entry.tag):
            raise ValueError(line)
        return entry


def node_principal(tag: bytes) -> str:
    return f"node:{tag.hex()}"


class Peers:
    """The allow-list as a process of the node reads it.  Callable from any thread; tickets do not open it."""

    def __init__(self, path: str):
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._entries: dict[bytes, AllowedKey] = {}
        self._tags: dict[bytes, bytes] = {}

    def allowed(self, public_key: bytes) -> str:
        """The principal of a listed node, else ''.  BadKeyFile when the list cannot be read."""
        with self._lock:
            self._refresh()
            entry = self._entries.get(public_key)
            return entry.principal if entry is not None and self._opens(entry) else ""

    def admits(self, peer: bytes, principal: str) -> bool:
        """Whether this principal may send for that incarnation: a node for its own processes, a
        ticket for newcomers."""
        tag = peer[:ids.TAG_SIZE]
        with self._lock:
            self._refresh()
            listed = tag in self._tags
        if principal.startswith("ticket:"):
            return not listed
        return listed and principal == node_principal(tag)

    def entries(self) -> list[AllowedKey]:
        with self._lock:
            self._refresh()
            return list(self._entries.values())

    def _opens(self, entry: AllowedKey) -> bool:
        return bool(entry.tag)

    def _refresh(self) -> None:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise curve.BadKeyFile(f"the allow-list {self.path!r} cannot be read: {error.strerror}") from None
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            lines = curve.read_private(self.path, _PEERS_BYTES_MAX).splitlines()
            try:
                entries = [AllowedKey.from_line(line) for line in lines]
            except ValueError:
                raise curve.BadKeyFile(f"the allow-list {self.path!r} is damaged") from None
            self._take(entries)
            self._seen = seen if time.time() - found.st_mtime > _RACY_S else None

    def _take(self, entries: list[AllowedKey]) -> None:
        self._entries = {entry.key: entry for entry in entries}
        self._tags = {entry.tag: entry.key for entry in entries if entry.tag}


class AllowList(Peers):
    """The allow-list in the node's daemon, the only process that writes it and that tickets open."""

    def __init__(self, path: str, clock: Callable[[], float] = time.time):
        super().__init__(path)
        self.clock = clock
        if os.path.exists(path):
            self._refresh()
        else:
            self._write([])

    def _refresh(self) -> None:
        if self._seen is None:
            super()._refresh()
            self._seen = (0, 0, 0)  # memory has the list that we wrote

    def add_node(self, key: bytes, tag: bytes) -> None:
        """List a node.  NotListed when the key or the tag belongs to another: neither may stand for two."""
        if len(key) != curve.KEY_SIZE or len(tag) != ids.TAG_SIZE:
            raise NotListed(f"a node is listed by a key of {curve.KEY_SIZE} bytes and a tag of {ids.TAG_SIZE}")
        with self._lock:
            known = self._entries.get(key)
            if (known is not None and known.tag != tag) or self._tags.get(tag, key) != key:
                raise NotListed(f"the key or the name of node {tag.hex()} is already another node's")
            if known is None:
                self._write([*self._entries.values(), AllowedKey(key, tag, node_principal(tag))])

    def remove_node(self, tag: bytes) -> None:
        """Its key opens nothing from now on; Mesh.refuse ends the connections that it has."""
        with self._lock:
            self._write([entry for entry in self._entries.values() if entry.tag != tag])

    def add_ticket(self, key: bytes, name: str, expires: float, uses: int = 0) -> None:
        """List a ticket by the public half of its key.  ``uses``: handshakes that it opens, 0 for any number."""
        if uses < 0 or not name.isalnum() or len(key) != curve.KEY_SIZE:
            raise NotListed("a ticket has a key, a name of letters and digits, and 0 or more uses")
        with self._lock:
            others = [e for e in self._entries.values() if e.key != key and (e.tag or e.expires > self.clock())]
            self._write([*others, AllowedKey(key, b"", f"ticket:{name}", expires, uses)])

    def remove_ticket(self, name: str) -> None:
        with self._lock:
            self._write([entry for entry in self._entries.values() if entry.principal != f"ticket:{name}"])

    def _opens(self, entry: AllowedKey) -> bool:
        if entry.tag:
            return True
        if entry.expires <= self.clock():
            return False
        if entry.uses:
            others = [other for other in self._entries.values() if other.key != entry.key]
            self._write([*others, entry._replace(uses=entry.uses - 1)] if entry.uses > 1 else others)
        return True

    def _write(self, entries: list[AllowedKey]) -> None:
        write_private(self.path, "".join(entry.to_line() for entry in entries))
        self._take(entries)


# ---------------------------------------------------------------- join strings


class JoinString(NamedTuple):
    """The data with which a newcomer dials a node of a cluster: ``endpoint`` as in
    zray.transport.curve, and its ticket."""

    host: str
    port: int
    cluster: bytes
    node: bytes  # the tag of that node
    server_key: bytes  # zeros: the cluster is insecure
    ticket: bytes  # secret
    expires: float

    @property
    def endpoint(self) -> str:
        return curve.make_endpoint(self.host, self.port, b"" if self.insecure else self.server_key)

    @property
    def insecure(self) -> bool:
        return not any(self.server_key)

    def keys(self) -> curve.Keys:
        """The ticket, to dial with."""
        return curve.from_secret(self.ticket)

    def warning(self, now: float) -> str:
        """A warning for the user beforehand, '' for none.  Only the cluster's clock decides."""
        if now < self.expires:
            return ""
        return (f"this join string has expired {(now - self.expires) / 60:.0f} minutes ago by this machine's clock; "
                "trying it all the same")

    def refusal(self, now: float) -> str:
        """The meaning of a refused handshake, for the user."""
        place = curve.join_host_port(self.host, self.port)
        why = ("has expired" if now >= self.expires else
               "is of a cluster that has ended, or was revoked or used up (or the clocks differ and it has expired)")
        return f"the node at {place} refused this join string, which {why}: make a new one on a node of the cluster"

    def __repr__(self) -> str:
        return f"JoinString({self.host}:{self.port})"  # never the ticket


def encode_join(join: JoinString) -> str:
    """One line without spaces or characters that a shell would read."""
    place = curve.join_host_port(join.host, join.port)
    body = _JOIN.pack(VERSION, join.cluster, join.node, join.server_key, join.ticket, int(join.expires))
    return f"{JOIN_SCHEME}{place}/{urlsafe_b64encode(body + _checksum(place, body)).decode().rstrip('=')}"


def decode_join(text: str) -> JoinString:
    """Read a join string (spaces and line breaks from copying are dropped); the BadJoinString has the reason."""
    text = "".join(text.split())
    if not text.startswith(JOIN_SCHEME):
        raise BadJoinString(_not_one(text))
    place, slash, code = text[len(JOIN_SCHEME):].partition("/")
    try:
        host, port = curve.split_host_port(place)
    except curve.BadEndpoint as error:
        raise BadJoinString(f"this join string does not begin with an address: {error}") from None
    if not slash or len(code) < _JOIN_CHARS:
        raise BadJoinString(f"this join string is cut off: {len(code)} of the {_JOIN_CHARS} characters after "
                            f"{JOIN_SCHEME}{place}/ are there")
    try:
        raw = urlsafe_b64decode(code + "=" * (-len(code) % 4))
    except ValueError:
        raw = b""
    if raw and raw[0] != VERSION:
        raise BadJoinString(f"this join string is of format {raw[0]}, made by another version of zray; this one reads "
                            f"format {VERSION} (or it was mistyped)")
    body, checksum = raw[:_JOIN.size], raw[_JOIN.size:]
    canonical = urlsafe_b64encode(raw).decode().rstrip("=") == code
    if len(raw) != _JOIN.size + _CHECKSUM_SIZE or checksum != _checksum(place, body) or not canonical:
        raise BadJoinString("this join string was damaged in copying: its checksum does not fit (copy it whole, with "
                            "its address)")
    _, cluster, node, server_key, ticket, expires = _JOIN.unpack(body)
    return JoinString(host, port, cluster, node, server_key, ticket, float(expires))


def _not_one(text: str) -> str:
    shown = text if len(text) <= 60 else text[:57] + "..."
    if not text:
        return f"the join string is empty; one begins with {JOIN_SCHEME}"
    if "/" in text and "://" not in text:
        return f"{shown!r} is a path, not a join string (which begins with {JOIN_SCHEME}); pass what the file says"
    if "://" in text:
        return f"{shown!r} is an address of another kind; a join string begins with {JOIN_SCHEME}"
    if ":" in text:
        return (f"{shown!r} is an address without keys: what is needed is a join string, which begins with "
                f"{JOIN_SCHEME} and which a node of the cluster prints")
    return f"{shown!r} is not a join string, which begins with {JOIN_SCHEME}"


def _checksum(place: str, body: bytes) -> bytes:
    return blake2b(place.encode() + b"/" + body, digest_size=_CHECKSUM_SIZE).digest()


# ---------------------------------------------------------------- all credentials of a node


class Credentials:
    """The credentials in a session directory, for a daemon (``create``) or for its core processes (``load``)."""

    def __init__(self, session_dir: str, cluster: bytes, keys: curve.Keys, peers: Peers, node: bytes = b""):
        self.session_dir = session_dir
        self.cluster = cluster
        self.keys = keys
        self.peers = peers
        self.node = node  # the tag of the daemon's node

    @classmethod
    def create(cls, session_dir: str, node: bytes, cluster: bytes = b"",
               clock: Callable[[], float] = time.time) -> Credentials:
        """Make or find the credentials of the daemon of node ``node``.  ``cluster``: the one that
        it joins; else a new one.

        ValueError when the directory is of another cluster.
        """
        path = os.path.join(session_dir, "node.key")
        if not os.path.exists(path):
            write_private(os.path.join(session_dir, "cluster"), (cluster or os.urandom(CLUSTER_SIZE)).hex())
            curve.save(curve.new_keys(), path)  # last: its existence shows that the others exist
        keys, found = curve.load(path), _read_cluster(session_dir)
        if cluster and found != cluster:
            raise ValueError(f"the session directory {session_dir!r} belongs to another cluster")
        peers = AllowList(os.path.join(session_dir, "peers"), clock)
        peers.add_node(keys.public, node[:ids.TAG_SIZE])
        return cls(session_dir, found, keys, peers, node[:ids.TAG_SIZE])

    @classmethod
    def load(cls, session_dir: str) -> Credentials:
        """The credentials of a core process.  BadKeyFile when they are missing, damaged, or readable by others."""
        keys = curve.load(os.path.join(session_dir, "node.key"))
        return cls(session_dir, _read_cluster(session_dir), keys, Peers(os.path.join(session_dir, "peers")))

    def equip(self, mesh: Mesh) -> None:
        """Give a mesh the fields that serve_tcp() and connect() need."""
        mesh.keys, mesh.allowed, mesh.admits = self.keys, self.peers.allowed, self.peers.admits

    def mint(self, host: str, port: int, valid_s: float = TICKET_S, uses: int = 0, insecure: bool = False) -> str:
        """A join string for the daemon at ``host:port``, its ticket listed here.

        Only where that daemon runs; add_ticket() lists tickets for the other nodes.
        """
        assert isinstance(self.peers, AllowList), "tickets are minted by daemons"
        ticket, expires = curve.new_keys(), float(int(self.peers.clock() + valid_s))
        self.peers.add_ticket(ticket.public, ticket.public.hex()[:16], expires, uses)
        server_key = bytes(curve.KEY_SIZE) if insecure else self.keys.public
        return encode_join(JoinString(host, port, self.cluster, self.node, server_key, ticket.secret, expires))


def _read_cluster(session_dir: str) -> bytes:
    path = os.path.join(session_dir, "cluster")
    try:
        cluster = bytes.fromhex(curve.read_private(path, 2 * CLUSTER_SIZE + 2))
    except ValueError as error:
        raise error if isinstance(error, curve.BadKeyFile) else curve.BadKeyFile(f"{path!r} is damaged") from None
    if len(cluster) != CLUSTER_SIZE:
        raise curve.BadKeyFile(f"{path!r} is damaged")
    return cluster
