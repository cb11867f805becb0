"""Kernels, compiled and not, and their plain twin decide exactly as the oracle written from the policies' prose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tests.oracles import sched_naive as naive
from zray.sched.kernels.loading import KERNEL_NAMES, Kernels

GPU = 1
LIMITS = [0, 250_000, 500_000, 1_000_001]


@pytest.fixture(scope="module")
def forms() -> dict[str, Kernels]:
    """The three forms under test; the second runs the kernels' own source in the interpreter."""
    compiled = Kernels.load()
    source = Kernels(True, "", "", compiled.vector, compiled.matrix,
                     *(getattr(compiled, name).py_func for name in KERNEL_NAMES))
    return {"plain": Kernels.plain(), "py_func": source, "jitted": compiled}


def build(form: Kernels, value):
    if not isinstance(value, list):
        return value
    if value and isinstance(value[0], list):
        return form.matrix(value, len(value[0]))
    return form.vector(value)


def run(form: Kernels, name: str, *arguments):
    """The result, and every argument as it is afterwards, as lists."""
    made = [build(form, value) for value in arguments]
    result = int(getattr(form, name)(*made))
    after = [value.tolist() if hasattr(value, "tolist") else value for value in made]
    return result, after


@st.composite
def clusters(draw, rows_max=7, columns_max=4, bundles=False):
    """total, available, allowed, demands: small numbers make ties; some columns are large enough to need shifting."""
    rows, columns = draw(st.integers(1, rows_max)), draw(st.integers(2, columns_max))
    scale = draw(st.lists(st.sampled_from([1, 2500, 10_000, 2**58]), min_size=columns, max_size=columns))
    amounts = st.integers(0, 4)
    total = [[draw(amounts) * scale[c] for c in range(columns)] for _ in range(rows)]
    available = [[draw(st.integers(0, 4)) * t // 4 for t in row] for row in total]
    if bundles:
        available = [list(row) for row in total]
    allowed = draw(st.lists(st.sampled_from([1, 1, 1, 0]), min_size=rows, max_size=rows))
    demands = [
        [draw(st.sampled_from([0, 0, 1, 2])) * scale[c] // draw(st.sampled_from([1, 2])) for c in range(columns)]
        for _ in range(draw(st.integers(1, 4)))
    ]
    return total, available, allowed, demands


@settings(max_examples=150, deadline=None)
@given(cluster=clusters(), limit=st.sampled_from(LIMITS), here=st.integers(-1, 6))
def test_hybrid_decides_as_its_prose(forms, cluster, limit, here):
    total, available, allowed, demands = cluster
    want = naive.hybrid(total, available, allowed, demands[0], limit, here, GPU)
    for name, form in forms.items():
        assert run(form, "pick_hybrid", total, available, allowed, demands[0], limit, here, GPU)[0] == want, name


@settings(max_examples=100, deadline=None)
@given(cluster=clusters(), cursor=st.integers(0, 100))
def test_spread_decides_as_its_prose(forms, cluster, cursor):
    total, available, allowed, demands = cluster
    cursor %= len(total)
    want = naive.spread(total, available, allowed, demands[0], cursor)
    for name, form in forms.items():
        assert run(form, "pick_spread", total, available, allowed, demands[0], cursor)[0] == want, name


@settings(max_examples=150, deadline=None)
@given(cluster=clusters(rows_max=12), limit=st.sampled_from(LIMITS), data=st.data())
def test_a_batch_decides_as_one_after_the_other(forms, cluster, limit, data):
    total, available, allowed, demands = cluster
    classes = data.draw(st.lists(st.integers(0, len(demands) - 1), max_size=40))
    want, free = naive.batch(total, available, allowed, demands, classes, limit, GPU)
    for name, form in forms.items():
        placed, after = run(form, "place_batch", total, available, allowed, demands, classes, limit, GPU,
                            [0] * len(classes))
        assert after[-1] == want, name
        assert after[1] == free, f"{name}: what was placed is taken, nothing else"
        assert placed == sum(row >= 0 for row in want)


@settings(max_examples=200, deadline=None)
@given(cluster=clusters(rows_max=5, columns_max=3, bundles=True), strategy=st.integers(0, 3))
def test_bundles_are_packed_as_their_prose_or_not_at_all(forms, cluster, strategy):
    total, available, allowed, bundles = cluster
    outcomes = {
        name: run(form, "pack_bundles", total, available, allowed, bundles, strategy, [0] * len(bundles))
        for name, form in forms.items()
    }
    assert outcomes["plain"] == outcomes["py_func"] == outcomes["jitted"]
    done, after = outcomes["plain"]
    free, where = after[1], after[-1]
    if not done:
        assert free == available and where == [-1] * len(bundles), "nothing is taken"
    else:
        expected = [list(row) for row in available]
        for bundle, row in zip(bundles, where, strict=True):
            assert allowed[row]
            expected[row] = [f - d for f, d in zip(expected[row], bundle, strict=True)]
        assert free == expected and all(value >= 0 for row in free for value in row)
    if strategy == 3:
        assert bool(done) == naive.bundles_can_be_strictly_spread(available, allowed, bundles)
        assert not done or len(set(where)) == len(where)
        return
    want = (naive.bundles_spread(available, allowed, bundles) if strategy == 1
            else naive.bundles_pack(available, allowed, bundles, strict=strategy == 2))
    assert (where if done else None) == want


def test_the_oracle_agrees_on_a_thousand_nodes(forms):
    """Wide enough for rebuilds and for paths of the tournament tree."""
    rows, columns = 1000, 8
    total = [[(row * 7 + column) % 5 * 10_000 for column in range(columns)] for row in range(rows)]
    demands = [[10_000, 0, 0, 5_000, 0, 0, 0, 0], [0, 10_000, 0, 0, 0, 0, 0, 0], [5_000] + [0] * 7]
    classes = [0] * 300 + [1] * 20 + [0, 2] * 100 + [1, 0, 2] * 50
    want = run(forms["plain"], "place_batch", total, total, [1] * rows, demands, classes[:200], 500_000, GPU, [0] * 200)
    assert run(forms["jitted"], "place_batch", total, total, [1] * rows, demands, classes[:200], 500_000, GPU,
               [0] * 200) == want
    assert naive.batch(total, total, [1] * rows, demands, classes[:30], 500_000, GPU)[0] == want[1][-1][:30]
