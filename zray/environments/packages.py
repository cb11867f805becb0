"""Packages of local code: a folder, a file or a wheel as a zip file that is named by its content.

The same content gives the same zip: entries are sorted, and have one date.  So it is stored once a job, and unpacked
once a node.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO

from zray.base.named_tuples import NamedTuple
from zray.environments import ignores
from zray.environments.spec import PACKAGE_SCHEME

DIGEST_SIZE = 16  # bytes of the address; 2**64 packages until two are likely to share one
IGNORE_FILES = (".gitignore", ".rayignore")
# Folders that are never code of the program.  As in Ray, but for those that Python makes.
NEVER_PACKED = (".git", ".venv", "venv", "__pycache__")
_DATE = (1980, 1, 1, 0, 0, 0)
_COPY_BYTES = 1 << 20


class PackageTooLarge(ValueError):
    """A folder has more than a package may have."""


class Package(NamedTuple):
    """A package on this machine's disk, before it is stored."""

    address: str
    digest: bytes
    nbytes: int
    file: IO[bytes]


def pack(path: str, excludes: list[str], *, named: bool, bytes_max: int) -> Package:
    """Pack a folder, a ``.py`` file, or a ready ``.zip`` or ``.whl``.

    ``named``: the folder's own name is part of the entries (a module), else its content is at the top.  Raises
    PackageTooLarge, or OSError for what cannot be read.
    """
    file: IO[bytes]
    ending = ".zip"
    if path.endswith((".zip", ".whl")) and os.path.isfile(path):
        ending = os.path.splitext(path)[1]
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no zip file")
        if os.path.getsize(path) > bytes_max:
            raise _too_large(path, os.path.getsize(path), bytes_max, "")
        file = open(path, "rb")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile(prefix="zray-package-")
        try:
            _write(file, path, excludes, named, bytes_max)
        except BaseException:
            file.close()
            raise
    digest = _digest(file)
    nbytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    name = f"{digest.hex()}/{os.path.basename(path)}" if ending == ".whl" else digest.hex() + ending
    return Package(f"{PACKAGE_SCHEME}://{name}", digest, nbytes, file)


def digest_of(address: str) -> bytes:
    """The digest in the address of a package of the control store; ValueError when there is none."""
    text = address.partition("://")[2].partition("/")[0].partition(".")[0]
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_SIZE:
        raise ValueError(f"{address} is not the address of a package")
    return digest


def _digest(file: IO[bytes]) -> bytes:
    file.seek(0)
    total = hashlib.sha256()
    while piece := file.read(_COPY_BYTES):
        total.update(piece)
    return total.digest()[:DIGEST_SIZE]


def _write(file: IO[bytes], path: str, excludes: list[str], named: bool, bytes_max: int) -> None:
    """Level 1: code shrinks to a third, and data that does not shrink costs little."""
    biggest = (0, "")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if os.path.isfile(path):
            entries: Iterator[tuple[str, str]] = iter([(os.path.basename(path), path)])
        else:
            prefix = os.path.basename(path) + "/" if named else ""
            entries = ((prefix + name, source) for name, source in files_of(path, excludes))
        for name, source in entries:
            _check_name(name, source)
            if name.endswith("/"):
                archive.writestr(_entry(name, stat.S_IFDIR | 0o755), b"")
                continue
            try:
                reader = open(source, "rb")  # noqa: SIM115
            except FileNotFoundError:
                if source == path:
                    raise
                continue  # it was removed after its folder was read
            with reader:
                info = os.fstat(reader.fileno())
                biggest = max(biggest, (info.st_size, source))
                # Its size is not known: it may grow meanwhile.
                with archive.open(_entry(name, info.st_mode), "w", force_zip64=True) as writer:
                    while piece := reader.read(_COPY_BYTES):
                        writer.write(piece)
                        biggest = max(biggest, (reader.tell(), source))
                        _check_size(path, file.tell(), bytes_max, biggest)
            _check_size(path, file.tell(), bytes_max, biggest)


def _check_size(path: str, nbytes: int, bytes_max: int, biggest: tuple[int, str]) -> None:
    if nbytes > bytes_max:
        raise _too_large(path, nbytes, bytes_max, f"; its largest file so far is {biggest[1]} with {biggest[0]:,} "
                                                  "bytes")


def _check_name(name: str, source: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of {source!r} is not UTF-8: rename it, or leave it out with "
                         "runtime_env['excludes'] or a .gitignore") from None


def _too_large(path: str, nbytes: int, bytes_max: int, detail: str) -> PackageTooLarge:
    return PackageTooLarge(
        f"{path} makes a package of {nbytes:,} bytes or more, and the setting package_bytes_max allows "
        f"{bytes_max:,}{detail}. Leave files out with runtime_env['excludes'] or a .gitignore, put data where the "
        "workers can read it, or raise the setting.")


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    executable = 0o111 if mode & 0o100 else 0
    entry.external_attr = (stat.S_IFMT(mode) | 0o644 | executable) << 16
    return entry


def files_of(folder: str, excludes: list[str]) -> Iterator[tuple[str, str]]:
    """(name in the package, path) of each file, and of each empty folder with a slash behind its name; in order.

    Links are followed, but not into a folder that contains them.
    """
    never = ignores.parse(NEVER_PACKED) + ignores.parse(excludes)
    yield from _walk(folder, "", never, [], frozenset((os.path.realpath(folder),)))


def _walk(folder: str, base: str, never: list[ignores.Pattern], ignored: list[ignores.Pattern], above: frozenset[str]
          ) -> Iterator[tuple[str, str]]:
    """``never``: patterns of the caller, which no ignore file takes back; ``ignored``: of the ignore files above."""
    for name in IGNORE_FILES:
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                ignored = ignored + ignores.parse(file, base)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            continue
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        if not base:
            raise
        return  # it was removed after the folder above was read
    if not entries and base:
        yield base, folder
    for entry in entries:
        name = base + entry.name
        is_folder = entry.is_dir()
        if ignores.is_ignored(never, name, is_folder) or ignores.is_ignored(ignored, name, is_folder):
            continue
        if is_folder:
            real = os.path.realpath(entry.path)
            if real not in above:
                yield from _walk(entry.path, name + "/", never, ignored, above | {real})
        elif entry.is_file():  # no sockets, pipes or dead links
            yield name, entry.path
