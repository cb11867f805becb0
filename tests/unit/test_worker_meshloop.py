"""asyncio inside the mesh's loop, with real sockets: messages, timers and asyncio's own descriptors all arrive."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from zray.transport.loop import Loop, Waiter
from zray.transport.mesh import Mesh
from zray.wire import codec
from zray.wire.messages import Bye
from zray.worker.actors.meshloop import new_event_loop

ME, PEER = b"worker--", b"driver--"


@pytest.fixture
def pair(tmp_path):
    """Two processes' worth of mesh: (ours with its loop, the peer's with its loop)."""
    got = {ME: [], PEER: []}
    made = []
    for name in (ME, PEER):
        mesh = Mesh(name, 1, f"ipc://{tmp_path}/{name.decode()}", codec.encode, codec.decode, time.monotonic)
        loop = Loop(mesh, lambda peer, code, message, name=name: got[name].append(message))
        loop.start()
        made.append(loop)
    mine, other = made
    with other.lock:
        other.mesh.connect(ME, mine.mesh.endpoint)
    yield mine, other, got
    for loop in made:
        loop.stop()
        loop.mesh.close(0)


def test_messages_wake_asyncio_and_replies_leave(pair):
    mine, other, got = pair
    came = []

    def on_round():
        """What an async actor does: messages become callbacks between two rounds of asyncio."""
        woken, came[:] = bool(came), []
        if woken:
            event_loop.call_soon(arrived.set)
        return woken

    event_loop = new_event_loop(mine, on_round)

    def on_message(peer, code, message):
        got[ME].append(message)
        mine.mesh.send(peer, Bye.CODE, message)
        came.append(message)
        event_loop.next_round()

    mine.dispatch = on_message

    async def serve():
        for n in range(20):
            arrived.clear()
            with other.lock:
                other.mesh.send(ME, Bye.CODE, Bye(str(n)))
            other.kick()
            while len(got[ME]) <= n:
                await asyncio.wait_for(arrived.wait(), 10)
                arrived.clear()
            await asyncio.sleep(0)

    try:
        arrived = asyncio.Event()
        event_loop.run_until_complete(serve())
        assert [m.reason for m in got[ME]] == [str(n) for n in range(20)]
        deadline = time.monotonic() + 10
        while len(got[PEER]) < 20 and time.monotonic() < deadline:
            mine.turn()
            other.turn()
        assert [m.reason for m in got[PEER]] == [str(n) for n in range(20)]
    finally:
        event_loop.close()


def test_timers_threads_and_subprocess_pipes_work(pair):
    mine, _, _ = pair
    event_loop = new_event_loop(mine, lambda: False)

    async def main():
        order = []
        event_loop.call_later(0.01, order.append, "timer")
        done = asyncio.Event()
        threading.Timer(0.02, lambda: event_loop.call_soon_threadsafe(done.set)).start()
        await asyncio.wait_for(done.wait(), 10)
        order.append("thread")
        reader, writer = await asyncio.open_connection(*(await serve_echo()))
        writer.write(b"over a socket")
        order.append(await asyncio.wait_for(reader.readexactly(13), 10))
        writer.close()
        await writer.wait_closed()
        return order

    async def serve_echo():
        async def echo(reader, writer):
            writer.write(await reader.read(100))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        servers.append(server)
        return server.sockets[0].getsockname()

    servers = []
    try:
        assert event_loop.run_until_complete(main()) == ["timer", "thread", b"over a socket"]
    finally:
        for server in servers:
            server.close()
        event_loop.run_until_complete(asyncio.sleep(0))
        event_loop.close()


def test_asyncio_goes_on_while_another_thread_leads(pair):
    """That thread began to wait while asyncio was busy; then its poll sees asyncio's descriptors."""
    mine, _, _ = pair
    event_loop = new_event_loop(mine, lambda: False)
    answer, leads, answered = Waiter(), threading.Event(), []
    poll = mine.mesh.poll

    def watched_poll(timeout, service=False):
        if threading.current_thread() is asker:
            leads.set()
        poll(timeout, service)

    def end(how):
        answered.append(how)
        with mine.lock:
            mine.notify(answer)

    async def main():
        asker.start()
        assert leads.wait(10)  # without asyncio
        assert await event_loop.run_in_executor(None, str, 7) == "7"
        reader, writer = os.pipe()
        read, done = [], asyncio.Event()

        def readable():
            """Leaves the rest: its descriptor stays readable."""
            read.append(os.read(reader, 1))
            if len(read) == 3:
                event_loop.remove_reader(reader)
                done.set()

        event_loop.add_reader(reader, readable)
        os.write(writer, b"abc")
        await done.wait()
        os.close(reader)
        os.close(writer)
        end("by asyncio")
        await event_loop.shutdown_default_executor()
        return read

    mine.mesh.poll = watched_poll
    asker = threading.Thread(target=mine.wait, args=(answer,))
    too_long = threading.Timer(10, end, ["too late"])
    too_long.start()
    try:
        assert event_loop.run_until_complete(main()) == [b"a", b"b", b"c"]
        assert answered == ["by asyncio"]
    finally:
        too_long.cancel()
        too_long.join()
        asker.join()
        event_loop.close()
