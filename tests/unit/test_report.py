"""The page of a report: complete, bounded, without scripts and secrets, whatever names the program has chosen."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from tests.unit.test_kept_state import Session
from zray.node.jobs.ended_events import Source
from zray.report import chart, failures
from zray.report.gathering import gathered
from zray.report.hiding import SHOWN_CHARS_MAX, Hider
from zray.report.page import page
from zray.state import kept

WORKER = bytes.fromhex("aabbccdd00000001")
VOID = {"meta", "br"}
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\u202egnp.exe", "new\nline", "x" * 10_000,
           "nul\0", "\ud800", "' onmouseover='alert(1)", "</style></svg>", "&lt;b&gt;", "\x1b[31mred\x1b[0m"]


class Tags(HTMLParser):
    """The tags and attributes of a page, and whether they are balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.sessions, "base_dirs", lambda: [str(tmp_path)])
    return Session(tmp_path / "one")


def report(session: Session, **environment: str) -> str:
    session.kept.finish("the end")
    return page(gathered(str(session.folder)), Hider(environment))


def ran(session: Session, name: str, message: str = "", number: int = 0, seconds: float = 1.0) -> None:
    error = ["TASK_EXECUTION_EXCEPTION", message] if message else None
    event = [name, number.to_bytes(24, "little"), 7, 100.0 + number, 100.0 + number + seconds, not message, 0, 1, error,
             0, ""]
    assert session.events.report(Source(WORKER, WORKER.ljust(28, b"i"), 1, b"", {}), [event], 0)


def test_names_and_texts_of_a_program_are_only_text(session):
    for number, name in enumerate(HOSTILE):
        ran(session, name, f"Traceback\n{name}", number)
    text = report(session)
    tags = Tags(text)
    assert not tags.seen & {"script", "img", "a", "link", "iframe", "object", "b><"} and "b" in tags.seen
    assert not {name for name in tags.attributes if name.startswith("on")} and not tags.attributes & {"src", "href"}
    assert "http://" not in text and "https://" not in text and "default-src 'none'" in text
    text.encode()
    assert "\u202e" not in text and "\\u202e" in text and "\0" not in text and "\x1b" not in text
    assert max(map(len, tags.words)) < 11_000 and "x" * (SHOWN_CHARS_MAX + 1) not in "".join(
        word for word in tags.words if "Traceback" not in word)


@pytest.mark.parametrize(("said", "secret"), [
    ("password=hunter2", "hunter2"), ("{'api_key': 'abc123def'}", "abc123def"), ("--db-password hunter2 -v", "hunter2"),
    ("Authorization: Bearer abc.def", "abc.def"), ("postgres://me:pw1234@db/x", "pw1234"),
    ("AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"), ("ghp_" + "a" * 36, "a" * 36),
    ("join zray://10.0.0.1:4000/c2VjcmV0c2VjcmV0c2VjcmV0", "c2VjcmV0c2VjcmV0"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
    ("it said correct-horse to me", "correct-horse")])
def test_what_looks_like_a_secret_is_left_out(session, said, secret):
    ran(session, "f", f"User exception:\nValueError: {said}")
    text = report(session, MY_TOKEN="correct-horse", PATH="/usr/bin")
    assert secret not in text and "ValueError" in text


def test_long_texts_of_any_kind_are_searched_in_linear_time():
    hide = Hider({}).hide
    for piece in ("x", "-", "password", "--token", "eyJ", "-eyJ", "://", "token=", "-----BEGIN ", " ", "sk-"):
        assert hide(piece * 4_000) is not None


def test_ordinary_text_stays():
    hide = Hider({"HOME": "/home/me"}).hide
    for said in ("KeyError: 'tokens'", "tokenizer.py line 3", "/home/me/x.py", "a = b", "x@y.org", "the secretary"):
        assert hide(said) == said


def test_equal_failures_are_one_row_with_their_number_and_a_traceback(session):
    for number in range(20):
        ran(session, "f", f"Traceback\nValueError: item {number} at 0xdeadbeef{number}", number)
    ran(session, "g", "Traceback\nKeyError: 1", 50)
    text = report(session)
    assert "<b>f</b> failed 20 times" in text and "<b>g</b> failed once" in text and text.count("<details>") == 2


def test_functions_have_their_sums_and_the_page_says_what_is_in_no_table(session):
    session.events.ended.kept_max = 5
    for number in range(10):
        ran(session, "f", "", number, 2.0)
    session.events.dropped = 3
    text = report(session)
    assert "<td class=\"n\">20.000</td>" in text and "5 attempts, which are too old" in text
    assert "3 short attempts" in text and "10 finished" in text


def test_a_session_in_which_nothing_happened_has_a_page(session):
    Tags(report(session))


def test_a_part_that_cannot_be_had_is_named(session, monkeypatch):
    def fails(self, what, args):
        if what in ("jobs", "leases"):
            return {"error": "it is on fire <b>"}
        return ask(self, what, args)

    ask = kept.KeptNode.ask
    monkeypatch.setattr(kept.KeptNode, "ask", fails)
    text = report(session)
    assert "not complete" in text and "jobs: it is on fire &lt;b&gt;" in text and "queues:" in text
    Tags(text)


# ---------------------------------------------------------------- timeline

def trace(number: int, begin: float, seconds: float, name: str = "f", ok: bool = True, lane: int = 0) -> dict:
    return {"ts": begin * 1e6, "dur": seconds * 1e6, "name": name, "ph": "X", "cat": "task", "pid": 1,
            "tid": lane, "args": {"pid": lane, "ok": ok}}


def test_the_drawing_of_many_short_tasks_is_bounded_and_counts_all():
    events = [trace(n, n / 100, 0.004, f"f{n % 7}", n % 1000 != 0, n % 100) for n in range(30_000)]
    events += [{**trace(0, 0, 1e6, "waits in get"), "cat": "wait"}, {"ph": "M", "name": "thread_name"}]
    found = chart.lanes(events)
    assert len(found) == chart.LANES_MAX
    text = chart.svg(events, str)
    assert text.count("<rect") <= chart.BARS_MAX and text.count("<text") == chart.LANES_MAX + chart.TICKS + 1


def test_long_tasks_beside_each_other_stay_apart_and_keep_their_names():
    bars = [bar for lane in chart.lanes([trace(0, 0, 5, "a"), trace(1, 5.001, 5, "b", ok=False)]).values()
            for bar in chart.merged(lane, 0.1)]
    assert [(bar.name, bar.failed) for bar in bars] == [("a", 0), ("b", 1)]
    short = [bar for lane in chart.lanes([trace(n, n, 0.01, f"f{n}") for n in range(5)]).values()
             for bar in chart.merged(lane, 2.0)]
    assert [(bar.name, bar.count) for bar in short] == [("several functions", 5)]


def test_the_line_that_names_an_error_is_the_last_but_not_where_its_log_is():
    assert failures.last_line("Traceback\nValueError: x\n\n") == "ValueError: x"
    assert failures.last_line("It died.\nIts log is /tmp/x.err") == "It died." and failures.last_line("") == ""
