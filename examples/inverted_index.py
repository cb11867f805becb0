"""An inverted index over the standard library's source files: which files contain a word?  Map, shuffle, reduce.

Each mapper returns one object per reducer (``num_returns``), so a reducer receives only its own share of the words
and no list of pairs passes through the driver.  The reducers are actors: they hold the index and answer queries.

    python examples/inverted_index.py asyncio unittest --files 500
"""

from __future__ import annotations

import argparse
import zlib
from collections import defaultdict

from word_count import stdlib_files, words

import zray as ray


def reducer_of(word: str, reducers: int) -> int:
    """The same in every process, unlike ``hash``."""
    return zlib.crc32(word.encode()) % reducers


@ray.remote
def index_files(paths: list[str], reducers: int):
    """``reducers`` dictionaries word -> files, one return value each."""
    parts: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(reducers)]
    for path in paths:
        for word in set(words(path)):
            parts[reducer_of(word, reducers)][word].append(path)
    return [dict(part) for part in parts] if reducers > 1 else dict(parts[0])


@ray.remote
class Shard:
    """The words of one reducer."""

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = defaultdict(set)

    def add(self, part: dict[str, list[str]]) -> int:
        for word, paths in part.items():
            self.files[word].update(paths)
        return len(self.files)

    def search(self, word: str) -> list[str]:
        return sorted(self.files.get(word, ()))


class Index:
    """The whole index: shards that answer for their own words."""

    def __init__(self, files: int | None = 300, chunk: int = 25, reducers: int = 2):
        paths = stdlib_files(files)
        self.shards = [Shard.remote() for _ in range(reducers)]
        mapper = index_files.options(num_returns=reducers)
        sizes = {}
        for start in range(0, len(paths), chunk):
            parts = mapper.remote(paths[start:start + chunk], reducers)
            for number, part in enumerate(parts if reducers > 1 else [parts]):
                sizes[number] = self.shards[number].add.remote(part)
        self.words = sum(ray.get(list(sizes.values())))

    def search(self, *query: str) -> list[str]:
        """Files that contain every word of ``query``."""
        found = ray.get([self.shards[reducer_of(word, len(self.shards))].search.remote(word) for word in query])
        return sorted(set.intersection(*map(set, found))) if found else []


def main(query: list[str], files: int | None = 300, reducers: int = 2) -> tuple[int, list[str]]:
    """How many different words the index holds, and the files that contain all of ``query``."""
    index = Index(files, reducers=reducers)
    return index.words, index.search(*query)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("query", nargs="*", default=["weakref", "threading"])
    parser.add_argument("--files", type=int, default=None)
    parser.add_argument("--reducers", type=int, default=2)
    total, matches = main(**vars(parser.parse_args()))
    print(f"{total:,} words indexed, {len(matches)} files match")
    print("\n".join(matches[:10]))
