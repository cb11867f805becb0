"""The race for a block, step by step: stores stay in the reader's store buffer for a while, loads do not wait for them.

The model is weaker than x86 and as weak as the protocol allows: a store becomes visible at any time up to
``DRAIN``, which is below the grace; loads see what is visible when they run.
"""

from __future__ import annotations

from hypothesis import given, strategies as st

DRAIN = 3
READERS = 2


def race(schedule: list[tuple[int, int]], grace: int) -> bool:
    """Run the protocol; whether a reader ever used the block after it was reused.

    ``schedule``: (who moves: 0 the store, 1.. the readers; how much time passes after the move).
    """
    now = 0
    header = [(0, "sealed")]  # (visible from, value), written by the store, whose own buffer drains as late
    pins: list[list[tuple[int, int]]] = [[(0, 0)] for _ in range(READERS)]
    reader_at = [0] * READERS  # 0 to pin, 1 to check, 2 using, 3 done
    store_at, marked = 0, 0
    reused = False

    def load(cell: list[tuple[int, object]]) -> object:
        return [value for visible, value in cell if visible <= now][-1]

    for who, pause in schedule:
        if who == 0:
            if store_at == 0:
                header.append((now + DRAIN, "evicting"))
                marked, store_at = now, 1
            elif store_at == 1 and now >= marked + grace and not any(load(cell) for cell in pins):
                reused, store_at = True, 2
        else:
            reader = who - 1
            if reader_at[reader] == 0:
                pins[reader].append((now + DRAIN, 1))
                reader_at[reader] = 1
            elif reader_at[reader] == 1:
                if load(header) == "sealed":
                    reader_at[reader] = 2
                else:
                    pins[reader].append((now + DRAIN, 0))
                    reader_at[reader] = 3
            elif reader_at[reader] == 2:
                pins[reader].append((now + DRAIN, 0))
                reader_at[reader] = 3
        if reused and 2 in reader_at:
            return True
        now += pause
    return False


moves = st.lists(st.tuples(st.integers(0, READERS), st.integers(0, 6)), max_size=24)


@given(moves)
def test_no_schedule_reuses_a_block_that_somebody_reads(schedule):
    # The mark may drain late, and so may a pin written just before the last load that missed the mark.
    assert not race(schedule, grace=2 * DRAIN)


def test_without_the_grace_the_model_finds_the_race():
    """The model can fail: the reader's pin is still in its store buffer when the store reads the tables."""
    assert race([(1, 0), (0, 0), (1, 0), (0, 0)], grace=0)
