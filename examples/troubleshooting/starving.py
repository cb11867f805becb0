"""Nightly reports never start, although nothing else runs and all CPUs are idle."""

from __future__ import annotations

from staging import run

import zray as ray


@ray.remote(num_cpus=0, resources={"license": 1})
class Viewer:
    """Shows a model to the people of the day shift."""

    def open(self, model: str) -> str:
        return f"{model} is open"


@ray.remote(resources={"license": 1})
def report(model: str) -> str:
    return f"report of {model}"


def main() -> None:
    ray.init(num_cpus=2, resources={"license": 1})
    viewer = Viewer.options(name="viewer").remote()
    print(ray.get(viewer.open.remote("bridge")), flush=True)
    print(ray.get([report.remote(model) for model in ("bridge", "tower", "tunnel")]))


if __name__ == "__main__":
    run(main, __doc__)
