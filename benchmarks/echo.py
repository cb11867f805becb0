"""What the machine itself takes: one ZeroMQ echo over loopback TCP between two processes, without any of zray.

Printed beside latencies of several hops, so that a busy machine is not taken for a slow runtime.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import zmq

from benchmarks.measure import quantile


def echo_p50(count: int = 500) -> float:
    """Median seconds of a round trip: two hops."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_answer, args=(there,), daemon=True)
    process.start()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.connect(here.recv())
        times = []
        for _ in range(count):
            start = time.perf_counter()
            socket.send(b"x" * 600)
            socket.recv()
            times.append(time.perf_counter() - start)
        socket.send(b"")
    finally:
        socket.close(0 if process.is_alive() else -1)
        process.join(5)
        if process.is_alive():
            process.kill()
        context.term()
    return quantile(sorted(times), 0.5)


def _answer(pipe: Any) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    pipe.send(f"tcp://127.0.0.1:{port}")
    while data := socket.recv():
        socket.send(data)
    socket.close(0)
    context.term()
