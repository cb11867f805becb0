"""Word count over the source files of the standard library of the Python that runs this: map, then a tree of merges.

    python examples/word_count.py --files 300 --top 10
"""

from __future__ import annotations

import argparse
import re
import sysconfig
from collections import Counter
from pathlib import Path

import zray as ray

WORD = re.compile(r"[A-Za-z_]\w*")


def stdlib_files(limit: int | None = None) -> list[str]:
    """Python files of the standard library, sorted; installed packages are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    found = (p for p in sorted(root.rglob("*.py")) if not {"site-packages", "dist-packages"} & set(p.parts))
    return [str(path) for path in found][:limit]


def words(path: str) -> list[str]:
    return WORD.findall(Path(path).read_text(encoding="utf-8", errors="replace"))


@ray.remote
def count_words(paths: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(words(path))
    return counts


@ray.remote
def merge(a: Counter[str], b: Counter[str]) -> Counter[str]:
    return a + b


def main(files: int | None = 300, chunk: int = 25) -> Counter[str]:
    """Counts of every word in the first ``files`` files, ``chunk`` files a task."""
    paths = stdlib_files(files)
    refs = [count_words.remote(paths[i:i + chunk]) for i in range(0, len(paths), chunk)]
    while len(refs) > 1:  # merge whatever is ready first: no level waits for its slowest
        ready, rest = ray.wait(refs, num_returns=2)
        refs = rest + [merge.remote(*ready)]
    return ray.get(refs[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=None)
    parser.add_argument("--top", type=int, default=10)
    options = parser.parse_args()
    result = main(options.files)
    print(f"{sum(result.values()):,} words, {len(result):,} different")
    for word, count in result.most_common(options.top):
        print(f"{count:8,}  {word}")
