"""Leaves secrets out of what a report shows, and makes any text safe to show.  Pure.

A report is made to be sent to others.  Nobody can know every secret in a traceback, so this hides what looks like one:
values behind names such as "password", passwords in addresses, join strings, keys in well-known forms, and the values
of environment variables with such names.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from zray.environments.setup import mask
from zray.node.running import join_secret

HIDDEN_VALUE = "****"
SECRET_CHARS_MIN = 6  # a shorter value of a variable would be found by chance in innocent words
SHOWN_CHARS_MAX = 120
_NAME = r"(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization)"
_SECRET_NAME = re.compile(_NAME, re.I)
# password=x, "token": "x", SECRET_KEY: x, Authorization: Bearer x.  Each repetition is bounded: so the time is, too,
# whatever the text is.
_ASSIGNED = re.compile(
    rf"""({_NAME}[\w-]{{0,40}}["']?\s{{0,4}}[=:]\s{{0,4}}["']?(?:(?:bearer|basic)\s{{1,4}})?)[^\s"',;)\]}}&]+""", re.I)
_OPTION = re.compile(rf"(--[\w-]{{0,40}}{_NAME}[\w-]{{0,40}}\s{{1,4}})[^\s-]\S*", re.I)
_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bAKIA[0-9A-Z]{16}\b|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bhf_[A-Za-z0-9]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{20,}|\beyJ[\w-]{10,4000}\.[\w-]{10,8000}\.[\w-]*", re.S)
# Control characters, and those that turn the direction of writing: a name with them could pass for another one.
_UNSHOWN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-"
                      "\udfff\ufeff\ufffe\uffff]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Hider:
    """Hides the secrets of one report."""

    def __init__(self, environment: Mapping[str, str]):
        """``environment``: variables whose values are secrets where their names look like it."""
        values = {value for name, value in environment.items()
                  if _SECRET_NAME.search(name) and len(value) >= SECRET_CHARS_MIN}
        self._values = re.compile("|".join(map(re.escape, sorted(values, key=len, reverse=True)))) if values else None

    def hide(self, text: str) -> str:
        """``text`` without what looks like a secret."""
        if self._values is not None:
            text = self._values.sub(HIDDEN_VALUE, text)
        text = _FORMS.sub(HIDDEN_VALUE, mask(join_secret.hide(text)))
        return _OPTION.sub(rf"\1{HIDDEN_VALUE}", _ASSIGNED.sub(rf"\1{HIDDEN_VALUE}", text))

    def text(self, value: object) -> str:
        """``value`` as HTML text of several lines."""
        shown = _COLOURS.sub("", self.hide(str(value)))
        return html.escape(_UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", shown), quote=True)

    def name(self, value: object) -> str:
        """``value`` as HTML text of one line, cut in its middle when it is long."""
        shown = " ".join(self.hide(str(value)).splitlines())
        if len(shown) > SHOWN_CHARS_MAX:
            half = SHOWN_CHARS_MAX // 2
            shown = f"{shown[:half]} … {shown[-half:]}"
        return html.escape(_UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", shown), quote=True)
