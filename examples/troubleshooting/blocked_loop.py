"""An asynchronous actor may serve 100 requests at a time, and serves one after the other."""

from __future__ import annotations

import time

from staging import run

import zray as ray


@ray.remote(num_cpus=0, max_concurrency=100)
class Gateway:
    async def request(self, number: int) -> int:
        return fetch(number)


def fetch(number: int) -> int:
    time.sleep(1.0)  # a client of a database that knows nothing of asyncio
    return number


def main() -> None:
    ray.init(num_cpus=2)
    gateway = Gateway.options(name="gateway").remote()
    started = time.perf_counter()
    for done, ref in enumerate([gateway.request.remote(number) for number in range(100)], 1):
        ray.get(ref)
        print(f"{done} requests in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    run(main, __doc__)
