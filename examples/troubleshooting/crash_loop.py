"""A scoring service answers the first requests, then one request never ends; no error is raised."""

from __future__ import annotations

import ctypes

from staging import run

import zray as ray


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Scorer:
    def score(self, text: str) -> int:
        if "%n" in text:
            print(f"scoring {text!r} with the native model", flush=True)
            ctypes.string_at(0)  # a bug in a library: it reads address 0
        return len(text)


def main() -> None:
    ray.init(num_cpus=2)
    scorer = Scorer.options(name="scorer").remote()
    for text in ("good", "very good", "100%n", "bad"):
        print(text, ray.get(scorer.score.remote(text)), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
