"""The examples run as programs and give the right results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.e2e.scripts import ROOT, environment
from tests.e2e.target import IS_ZRAY

pytestmark = pytest.mark.skipif(not IS_ZRAY, reason="the examples import zray")


def run_main(module: str, call: str):
    """The result of ``module.main(...)``, as JSON, from a process started in examples/."""
    program = f"import json, {module}\nif __name__ == '__main__':\n print('RESULT' + json.dumps({module}.{call}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "examples", text=True, capture_output=True,
                          env=environment(PYTHONWARNINGS="default"), timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.partition("RESULT")[2].splitlines()[0])


def test_tree_and_linear_reduction_agree_exactly(session_root):
    equal, checksum, _, _ = run_main("tree_reduction", "main(matrices=9, size=48)")
    assert equal
    assert checksum > 0


def test_counters_count_in_order_and_lose_nothing(session_root):
    result = run_main("counter", "main(counters=3, increments=200)")
    assert result == {"in_order": [True] * 3, "values": [200, 210, 220], "shared": [600]}


def test_the_parameter_server_learns_and_equals_gradient_descent(session_root):
    synchronous, asynchronous, distance = run_main("parameter_server", "main(rounds=30)")
    assert synchronous > 0.95
    assert asynchronous > 0.95
    assert distance < 1e-9


def test_policy_search_solves_cartpole(session_root):
    pytest.importorskip("gymnasium")
    before, after, weights = run_main("cartpole", "main(iterations=6)")
    assert before < 100
    assert after > 195
    assert len(weights) == 4


def naive_counts(files: int) -> Counter[str]:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import word_count
    finally:
        sys.path.remove(str(ROOT / "examples"))
    counts: Counter[str] = Counter()
    for path in word_count.stdlib_files(files):
        counts.update(word_count.words(path))
    return counts


def test_word_count_equals_a_plain_loop(session_root):
    assert run_main("word_count", "main(files=60, chunk=7)") == naive_counts(60)


def test_the_inverted_index_finds_every_file_with_all_words(session_root):
    total, matches = run_main("inverted_index", "main(['weakref', 'threading'], files=120, reducers=3)")
    expected = []
    import word_count

    for path in word_count.stdlib_files(120):
        if {"weakref", "threading"} <= set(word_count.words(path)):
            expected.append(path)
    assert matches == expected
    assert total == len(naive_counts(120))


@pytest.mark.parametrize("script", ["counter.py --counters 1 --increments 5", "word_count.py --files 5 --top 1"])
def test_the_command_lines_work(script, session_root):
    name, *arguments = script.split()
    done = subprocess.run([sys.executable, ROOT / "examples" / name, *arguments], env=environment(), text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
