"""Random work on the store's allocators and its table, by seed: ``python -m fuzz.fuzz_arena --seconds 60``."""

from __future__ import annotations

import random

from fuzz.command import by_seed
from tests.oracles.naive_arena import NaiveArena
from tests.oracles.store_harness import Harness
from zray.store import StoreFull
from zray.store.client import Allocation
from zray.store.node.arena import Arena

STEPS = 300


def fuzz_arena(rng: random.Random) -> None:
    arena, naive, held = Arena(1024 * 64), NaiveArena(), []
    for _ in range(STEPS):
        act = rng.random()
        if act < 0.05 and arena.reserved < arena.capacity:
            size = min(rng.randint(1, 300) * 64, arena.capacity - arena.reserved)
            arena.grow(size)
            naive.grow(size)
        elif act < 0.6:
            size = rng.randint(1, 80) * 64
            offset = arena.allocate(size)
            assert (offset is None) == (not naive.fits(size))
            if offset is not None:
                naive.take(offset, size)
                held.append((offset, size))
        elif held:
            offset, size = held.pop(rng.randrange(len(held)))
            naive.give(offset, size)
            arena.free(offset, size)
        arena.check()
    assert arena.ranges() == naive.runs()


def fuzz_store(rng: random.Random) -> None:
    """Clients put, read, free and die while messages, threads and the clock move at random."""
    harness = Harness(capacity=1024 * 1024, arena_step_bytes=128 * 1024)
    views: list[tuple[object, memoryview, bytes]] = []
    objects: dict[bytes, tuple[list, bytes]] = {}
    try:
        peers = [harness.join() for _ in range(3)]
        for step in range(STEPS):
            peer = rng.choice(peers)
            act = rng.random()
            if act < 0.3:
                content = step.to_bytes(2, "big") * rng.choice([1, 50, 2000, 40_000])
                oid = harness.new_oid()
                try:
                    found = peer.client.allocate(len(content), oid)
                except StoreFull:
                    continue
                if isinstance(found, Allocation):
                    found.view[:] = content
                    objects[oid] = found.seal(), content
            elif act < 0.45 and objects:
                oid = rng.choice(list(objects))
                value, content = objects[oid]
                view = peer.client.read(value, oid)
                if view is not None:
                    views.append((peer, view, content))
            elif act < 0.55 and views:
                views.pop(rng.randrange(len(views)))
            elif act < 0.65 and objects:
                oid = rng.choice(list(objects))
                peer.client.free(oid, objects.pop(oid)[0], True)
            elif act < 0.85:
                peer.client.flush()
                if peer.to_node:
                    harness.step_to_node(peer)
                if peer.from_node:
                    harness.step_from_node(peer)
            elif act < 0.9 and harness.spiller.calls:
                harness.spiller.step()
                while harness.loop:
                    harness.loop.popleft()()
            elif act < 0.98:
                harness.advance(rng.choice([0.001, 0.003, 0.3]))
            else:
                views = [entry for entry in views if entry[0] is not peer]
                harness.kill(peer)
                peers[peers.index(peer)] = harness.join()
            harness.check()
            for _, view, content in views:
                assert view == content, "a viewed object changed"
        for oid, (value, content) in objects.items():
            found = harness.get(peers[0], oid, value)
            assert found == content or (isinstance(found, list) and found[1] == "store_full" and views)
            del found
    finally:
        views.clear()
        harness.close()


def run(seed: int) -> None:
    fuzz_arena(random.Random(seed))
    fuzz_store(random.Random(seed))


if __name__ == "__main__":
    raise SystemExit(by_seed(run, __doc__))
