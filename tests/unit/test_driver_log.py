"""Worker output on the driver's terminal: labelled, folded, live while a line goes on, and never mixed or lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, strategies as st

from tests.fakes.clock import FakeClock
from zray.api.driver_log import FOLD_S, FOLDED_MAX, HINT, SWITCH_S, Screen
from zray.node.processes.output import OutputFile
from zray.wire.messages import LogLines


def text_of(pieces, stderr=None):
    return "".join(text for is_stderr, text in pieces if stderr is None or is_stderr is stderr)


def terminal(text):
    """The rows that a terminal shows after ``text``."""
    rows = []
    for line in text.split("\n"):
        row = ""
        for segment in line.split("\r"):
            row = segment + row[len(segment):]
        rows.append(row.rstrip())
    return rows


def test_worker_output_is_labelled_folded_and_never_lost():
    lines = [["f", 1, False, "hi"], ["f", 2, False, "hi"], ["g", 3, True, "hi"], ["", 4, False, "x"]]
    screen = Screen(fold=True)
    pieces = screen.render(lines, 2)
    assert text_of(pieces, False) == "(f pid=1) hi\n(pid=4) x\n"
    err = text_of(pieces, True)
    assert err.startswith("(g pid=3) hi\n") and "2 lines" in err
    assert text_of(screen.counts(at_once=True)) == f"(f pid=2) hi [repeated 1x across processes{HINT}]\n"
    pieces = Screen(fold=False).render([["f", 1, False, "hi"], ["f", 2, False, "hi"]])
    assert text_of(pieces) == "(f pid=1) hi\n(f pid=2) hi\n"
    pieces = Screen().render([["f", 1, False, "hi"], ["", 4, False, "x"]], ip="10.0.0.2")
    assert text_of(pieces) == "(f pid=1, ip=10.0.0.2) hi\n(pid=4, ip=10.0.0.2) x\n"


def test_a_repeat_is_folded_if_another_process_printed_it_within_the_window():
    clock = FakeClock()
    screen = Screen(clock, fold=True)

    def say(pid, text, err=False):
        return text_of(screen.render([["f", pid, err, text]]))

    assert say(1, "same") == say(1, "same") == "(f pid=1) same\n"  # its own repeats are no repeats of others
    assert say(2, "same") == say(3, "same") == ""
    assert say(2, "same", err=True) == "(f pid=2) same\n"
    assert say(2, "step 1") == "(f pid=2) step 1\n" and say(3, "step 2") == "(f pid=3) step 2\n"  # as Ray would not
    clock.now += FOLD_S
    assert say(4, "same") == f"(f pid=3) same [repeated 2x across processes{HINT}]\n(f pid=4) same\n"
    assert say(5, "same") == ""
    clock.now += FOLD_S
    assert text_of(screen.counts()) == "(f pid=5) same [repeated 1x across processes]\n"  # the hint comes once
    assert screen.counts(at_once=True) == []


def test_blank_lines_are_never_folded():
    screen = Screen(fold=True)
    for pid in (1, 2, 3):
        assert [text_of(screen.render([["f", pid, False, blank]])) for blank in ("", "  ")] == [
            f"(f pid={pid}) \n", f"(f pid={pid})   \n"]
    assert screen.counts(at_once=True) == []


def test_what_is_compared_is_bounded_and_no_count_is_lost():
    screen = Screen(FakeClock(), fold=True)
    shown = ""
    for n in range(3 * FOLDED_MAX):
        shown += text_of(screen.render([["f", 1, False, str(n)], ["f", 2, False, str(n)]]))
        assert len(screen._repeated) <= FOLDED_MAX + 1
    shown += text_of(screen.counts(at_once=True))
    assert shown.count("(f pid=1) ") == shown.count("[repeated 1x") == 3 * FOLDED_MAX


def test_counts_come_by_a_timer_and_at_the_end(capsys):
    timers, clock = [], FakeClock()
    screen = Screen(clock, lambda seconds, action: timers.append((clock.now + seconds, action)), fold=True)

    def say(pid, text):
        screen.show(LogLines([["f", pid, False, text]], 0))

    say(1, "a")
    clock.now += 1.0
    say(2, "a")
    say(2, "b")
    say(1, "b")
    assert len(timers) == 1
    while timers:
        clock.now, action = timers.pop()
        action()
    assert capsys.readouterr().out == (f"(f pid=1) a\n(f pid=2) b\n(f pid=2) a [repeated 1x across processes{HINT}]\n"
                                       "(f pid=1) b [repeated 1x across processes]\n")
    say(1, "c")
    say(2, "c")
    screen.end()
    assert capsys.readouterr().out == "(f pid=1) c\n(f pid=2) c [repeated 1x across processes]\n"


def test_a_progress_bar_moves_in_place():
    screen = Screen()
    shown = [text_of(screen.render([], unfinished=[["f", 1, True, f"step {i}"]])) for i in (8, 9, 10, 10)]
    assert shown == ["(f pid=1) step 8", "\r(f pid=1) step 9", "\r(f pid=1) step 10", ""]
    assert text_of(screen.render([["f", 1, True, "ok"]])) == "\r(f pid=1) ok     \n"


def test_a_line_that_grows_is_not_written_again():
    screen = Screen()
    shown = [text_of(screen.render([], unfinished=[["f", 1, False, "." * n]])) for n in (1, 2, 4)]
    assert shown == ["(f pid=1) .", ".", ".."]
    assert text_of(screen.render([["f", 1, False, "....!"]])) == "!\n"


def test_another_workers_line_ends_the_unfinished_one_first():
    screen = Screen()
    screen.render([], unfinished=[["f", 1, True, "step 1"]])
    assert screen.render([["g", 2, False, "hello"]]) == [(True, "\n"), (False, "(g pid=2) hello"), (False, "\n")]
    assert text_of(screen.render([], unfinished=[["f", 1, True, "step 2"]])) == "(f pid=1) step 2"


def test_progress_bars_of_several_workers_take_turns():
    clock = FakeClock()
    screen = Screen(clock)
    def step(pid, text):
        return text_of(screen.render([], unfinished=[["f", pid, True, text]]))
    assert step(1, "a1") == "(f pid=1) a1"
    assert step(1, "a2") == "\r(f pid=1) a2"
    assert step(2, "b1") == step(2, "b2") == ""
    clock.now += SWITCH_S
    assert step(1, "a3") == "\r(f pid=1) a3\n(f pid=2) b2"
    assert text_of(screen.render([["f", 1, True, "a4"]])) == "\n(f pid=1) a4\n"


def test_bars_that_move_in_turn_do_not_write_a_line_for_each_step():
    clock = FakeClock()
    screen = Screen(clock)
    shown = ""
    for step in range(100):
        clock.now += SWITCH_S / 100
        for pid in (1, 2):
            shown += text_of(screen.render([], unfinished=[["f", pid, True, f"step {step}"]]))
    assert shown.count("\n") <= 3


def test_what_waited_for_a_progress_bar_is_shown_when_the_bar_has_ended():
    screen = Screen(FakeClock())
    for text in ("a1", "a2"):
        screen.render([], unfinished=[["f", 1, True, text]])
    assert text_of(screen.render([], unfinished=[["g", 2, False, "ready? "]])) == ""
    assert text_of(screen.render([["f", 1, True, "a3"]])) == "\r(f pid=1) a3\n(g pid=2) ready? "


def test_a_folded_repeat_ends_the_line_that_it_completes():
    screen = Screen(fold=True)
    shown = text_of(screen.render([["f", 1, False, "done"]], unfinished=[["f", 2, False, "don"]]))
    shown += text_of(screen.render([["f", 2, False, "done"]])) + text_of(screen.counts(at_once=True))
    assert terminal(shown) == ["(f pid=1) done", "(f pid=2) don",
                               f"(f pid=2) done [repeated 1x across processes{HINT}]", ""]


def test_a_marker_that_is_half_written_is_not_shown():
    stream = OutputFile("", b"", False)
    assert stream.lines(b"10 %\x01zray-ta", False) == []
    assert stream.unfinished() == ["", 0, False, "10 %"]
    assert stream.lines(b"sk:g\nmore\n", False) == [["g", 0, False, "10 %more"]]


def test_what_a_carriage_return_has_overwritten_is_not_kept():
    stream = OutputFile("", b"", False)
    for step in range(10_000):
        stream.lines(b"\rstep %d of 10000" % step, False)
    assert stream.unfinished() == ["", 0, False, "step 9999 of 10000"]
    assert len(stream.partial) < 50
    assert stream.lines(b"\r\n", False) == [["", 0, False, "step 9999 of 10000"]]


words = st.sampled_from(["ab", "abc", "x", "longer words"])
writes = st.lists(st.tuples(st.integers(0, 2), words, st.sampled_from(["", "\r", "\n"]), st.booleans()), max_size=40)


@given(writes, st.lists(st.floats(0, 1), max_size=10))
def test_every_line_appears_whole_once_and_no_row_mixes_two_workers(written, ticks):
    clock = FakeClock()
    screen = Screen(clock, fold=False)
    streams = [OutputFile("", b"", bool(n % 2)) for n in range(3)]
    for n, stream in enumerate(streams):
        stream.pid = n
    shown, said = "", ["", "", ""]
    batch: list = []
    for n, word, end, look in [*written, *[(n, "end", "\n", True) for n in range(3)]]:
        said[n] += word + end
        batch += streams[n].lines((word + end).encode(), False)
        if look:
            open_line = streams[n].unfinished()
            pieces = screen.render(batch, unfinished=[open_line] if open_line else [])
            shown += text_of(pieces)
            batch = []
            clock.now += ticks.pop() if ticks else 0.1
    rows = terminal(shown)
    assert rows.pop() == ""
    assert all(row.count("(pid=") == 1 and row.startswith("(pid=") for row in rows)
    lines = Counter()
    for n in range(3):
        for line in said[n].split("\n")[:-1]:
            lines[f"(pid={n}) {line.rstrip(chr(13)).rpartition(chr(13))[2]}"] += 1
    assert not lines - Counter(rows), rows
