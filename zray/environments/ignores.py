"""Patterns of .gitignore files: which paths of a folder stay out of its package.  Pure.

The rules are those of gitignore(5): comments, ``!`` negates, a slash at the start or in the middle anchors a pattern at
its folder, a slash at the end means folders only, ``*`` and ``?`` do not match a slash, ``**`` does.  The last pattern
that matches decides, and nothing in an excluded folder comes back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


class Pattern:
    """One line of an ignore file in folder ``base`` ('' or 'a/b/', relative to the package's folder)."""

    __slots__ = ("_base", "_folders_only", "_regex", "negated")

    def __init__(self, line: str, base: str):
        self.negated = line.startswith("!")
        if self.negated:
            line = line[1:]
        elif line.startswith(("\\!", "\\#")):
            line = line[1:]
        self._folders_only = line.endswith("/")
        line = line.rstrip("/") if self._folders_only else line
        anchored = "/" in line
        self._base = base
        prefix = "" if anchored else "(?:.*/)?"
        self._regex = re.compile(prefix + _regex(line.removeprefix("/")) + r"\Z", re.DOTALL)

    def matches(self, path: str, is_folder: bool) -> bool:
        """``path`` is relative to the package's folder, with slashes."""
        if self._folders_only and not is_folder or not path.startswith(self._base):
            return False
        return self._regex.match(path[len(self._base):]) is not None


def parse(lines: Iterable[str], base: str = "") -> list[Pattern]:
    """The patterns of an ignore file; an invalid one is skipped, as git does."""
    out = []
    for line in lines:
        line = _without_trailing_spaces(line.rstrip("\r\n"))
        if not line or line.startswith("#") or not line.strip("/!"):
            continue
        try:
            out.append(Pattern(line, base))
        except re.error:
            continue
    return out


def is_ignored(patterns: list[Pattern], path: str, is_folder: bool) -> bool:
    """Whether the last pattern that matches excludes ``path``.  The caller does not enter excluded folders."""
    for pattern in reversed(patterns):
        if pattern.matches(path, is_folder):
            return not pattern.negated
    return False


def _without_trailing_spaces(line: str) -> str:
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    return line


def _regex(glob: str) -> str:
    out = []
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            out.append("(?:.*/)?")
            at += 3
        elif glob.startswith("/**", at) and at + 3 == len(glob):
            out.append("/.+")
            at += 3
        elif glob[at] == "*":
            while at < len(glob) and glob[at] == "*":
                at += 1
            if out or at < len(glob) or len(glob) == 1 or glob.strip("*"):
                out.append("[^/]*")
            else:
                out.append(".*")  # the whole pattern is **
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        elif glob[at] == "[":
            text, at = _set(glob, at)
            out.append(text)
        elif glob[at] == "\\" and at + 1 < len(glob):
            out.append(re.escape(glob[at + 1]))
            at += 2
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return "".join(out)


def _set(glob: str, at: int) -> tuple[str, int]:
    """A bracket expression that begins at ``at``, and where it ends; raises re.error when it has no end."""
    end = at + 1
    if glob[end:end + 1] in ("!", "^"):
        end += 1
    if glob[end:end + 1] == "]":
        end += 1
    while end < len(glob) and glob[end] != "]":
        end += 2 if glob[end] == "\\" else 1
    if end >= len(glob):
        raise re.error("no closing bracket")
    inner = glob[at + 1:end]
    negated = inner.startswith(("!", "^"))
    inner = inner[1:] if negated else inner
    inner = re.sub(r"\[(?!:)|&&|\|\||~~", lambda found: re.escape(found[0]), inner)
    if inner.startswith("]"):
        inner = "\\" + inner
    return f"(?!/)[{'^' if negated else ''}{inner}]", end + 1
