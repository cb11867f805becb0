"""A pipeline on two nodes stops in the middle: its last steps wait, and none of them fails."""

from __future__ import annotations

import os
import signal
import time

from staging import run

import zray as ray
from zray.cluster_utils import Cluster


@ray.remote
def prepare(number: int) -> int:
    return number


@ray.remote(resources={"scanner": 1}, max_retries=-1)
def scan(number: int) -> int:
    time.sleep(0.5)
    return number * number


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    scanner = cluster.add_node(num_cpus=1, resources={"scanner": 1}, node_name="scanner-host")
    ray.init(address=cluster.address)
    for number in range(100):
        if number == 3:
            os.kill(scanner.pid, signal.SIGKILL)  # somebody pulls the plug
        print(f"scan {number}: {ray.get(scan.remote(prepare.remote(number)))}", flush=True)


if __name__ == "__main__":
    run(main, __doc__)
