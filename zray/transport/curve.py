"""CURVE keys, their files, and endpoints that contain the key of the server.

    tcp://10.0.0.1:6379/5f0c...    64 hex digits: the public key that the listener must prove to hold
    tcp://10.0.0.1:6379            plain TCP: neither secret nor authenticated, only for meshes that are insecure

Keys are 32 raw bytes here; pyzmq's own functions print them in Z85.
"""

from __future__ import annotations

import os
import socket
import stat

import zmq
from zmq.utils import z85

from zray.base.named_tuples import NamedTuple

KEY_SIZE = 32
_PREFIX = "tcp://"


class BadEndpoint(ValueError):
    """Not an endpoint of the form in this module's docstring."""


class BadKeyFile(ValueError):
    """A key file is missing, damaged, or readable by others."""


class Keys(NamedTuple):
    """A key pair.  To others, a process that knows ``secret`` is the owner of ``public``."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Keys({self.public.hex()})"  # never the secret: it would end up in logs and tracebacks


class Endpoint(NamedTuple):
    address: str  # as ZeroMQ takes it
    key: bytes  # b"": plain


def require() -> None:
    """RuntimeError where libzmq was built without CURVE."""
    if not zmq.has("curve"):
        raise RuntimeError("zray needs a libzmq with CURVE for connections between nodes, and this pyzmq has none; "
                           "the wheels on PyPI have it")


def new_keys() -> Keys:
    """A fresh key pair, from the system's random numbers."""
    require()
    public, secret = zmq.curve_keypair()
    return Keys(z85.decode(public), z85.decode(secret))


def from_secret(secret: bytes) -> Keys:
    """The pair with this secret key."""
    require()
    if len(secret) != KEY_SIZE:
        raise ValueError(f"a secret key is {KEY_SIZE} bytes, not {len(secret)}")
    return Keys(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


# ---------------------------------------------------------------- files


def save(keys: Keys, path: str) -> None:
    """Write a new 0600 file in a directory that no other user can enter.  FileExistsError when there is one."""
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    _check_private(os.stat(directory), directory)
    # Not zmq.auth.create_certificates: at the usual umask all users can read its secret keys.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(f"{keys.public.hex()}\n{keys.secret.hex()}\n")


def load(path: str) -> Keys:
    """The keys in a file of save(); BadKeyFile when others could read or replace them, or they are no pair."""
    lines = read_private(path, 4 * KEY_SIZE + 16).split()
    try:
        public, secret = map(bytes.fromhex, lines)
        keys = from_secret(secret)
    except ValueError:
        raise BadKeyFile(f"the key file {path!r} does not hold a key pair") from None
    if keys.public != public:
        raise BadKeyFile(f"the two keys in {path!r} do not belong together")
    return keys


def read_private(path: str, bytes_max: int) -> str:
    """A file of ours in a directory of ours, both closed to others; else BadKeyFile."""
    directory = os.path.dirname(os.path.abspath(path))
    try:
        _check_private(os.stat(directory), directory)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadKeyFile(f"the key file {path!r} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BadKeyFile(f"{path!r} is not a file")
        _check_private(found, path)
        if found.st_size > bytes_max:
            raise BadKeyFile(f"{path!r} is larger than {bytes_max} bytes")
        with open(handle, encoding="ascii", errors="replace", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def _check_private(found: os.stat_result, path: str) -> None:
    if found.st_uid != os.getuid():
        raise BadKeyFile(f"{path!r}, where keys are kept, belongs to another user (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise BadKeyFile(f"{path!r}, where keys are kept, is open to other users (mode "
                         f"{stat.S_IMODE(found.st_mode):04o}): make new keys, or chmod go= it if nobody has read them")


# ---------------------------------------------------------------- endpoints


def is_tcp(endpoint: str) -> bool:
    return endpoint.startswith(_PREFIX)


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """``"[::1]:80"`` -> ``("::1", 80)``; raises BadEndpoint."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or (":" in host) != bracketed or not all(c.isalnum() or c in "-._:%" for c in host):
        raise BadEndpoint(f"{text!r} is not HOST:PORT (an IPv6 address goes in brackets)")
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise BadEndpoint(f"{port!r} is not a port: {text!r}")
    return host, int(port)


def make_endpoint(host: str, port: int, key: bytes = b"") -> str:
    """The endpoint string; without ``key``, one for plain TCP."""
    return _PREFIX + join_host_port(host, port) + (f"/{key.hex()}" if key else "")


def parse_endpoint(endpoint: str) -> Endpoint:
    """Take an endpoint string apart; the BadEndpoint has the reason."""
    if not is_tcp(endpoint):
        raise BadEndpoint(f"{endpoint!r} does not begin with {_PREFIX}")
    place, slash, key = endpoint[len(_PREFIX):].partition("/")
    host, port = split_host_port(place)
    if not slash:
        return Endpoint(_PREFIX + join_host_port(host, port), b"")
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    if len(raw) != KEY_SIZE or len(key) != 2 * KEY_SIZE:
        raise BadEndpoint(f"the key in {endpoint!r} is not {2 * KEY_SIZE} hexadecimal digits")
    return Endpoint(_PREFIX + join_host_port(host, port), raw)


def resolve(endpoint: str) -> str:
    """The endpoint with its host name looked up (blocks).  ConnectionError when the name has no address.

    A mesh dials numbers only: it may not block, and ZeroMQ's monitor reports numbers.
    """
    address, key = parse_endpoint(endpoint)
    host, port = split_host_port(address[len(_PREFIX):])
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionError(f"the host name {host!r} cannot be looked up: {error.strerror or error}") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return make_endpoint(str(found[0][4][0]), port, key)


def is_numeric(address: str) -> bool:
    """Whether the host of ``tcp://host:port`` is an IP address."""
    host, _ = split_host_port(address[len(_PREFIX):])
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
            return True
        except OSError:
            continue
    return False
