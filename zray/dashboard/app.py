"""The application: the page's files, one stream of updates for each open page, reads, requests and actions.

    GET  /                    the page (no token: nothing of the session is in it)
    GET  /api/session         which session this is
    GET  /api/stream?view=    server-sent events: the view now, and again when it has changed
    GET  /api/read?view=      the view once
    GET  /api/ask/<name>      stack, why, trace
    POST /api/act             kill, cancel, drain

Back-pressure: a stream makes its next update only when the last one has left for the page, and waits ten times as long
as the update took to make, but at least ``INTERVAL_S``.  Nothing queues.  Without an open stream nothing is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from zray.dashboard import views
from zray.dashboard.actions import METHODS, act
from zray.dashboard.asking import REQUESTS
from zray.dashboard.guard import App, Guard
from zray.dashboard.query import BadQuery, Query
from zray.dashboard.reading import PageReader
from zray.dashboard.source import DataSource, LiveSource, SourceError

INTERVAL_S = 1.0
PATIENCE = 10  # of a stream's time one part in so many goes to making updates
BEAT_S = 5.0  # a stream that has nothing new says so, so that the page knows that its server lives
STREAMS_MAX = 24


class Dashboard:
    """The application's state: two threads that ask the session, one for streams and one for people's requests."""

    def __init__(self, source: DataSource, asked: LiveSource | None, about: dict[str, Any]):
        """``asked``: a second connection, for what a person asks; ``about``: what the page shows of the session."""
        self.reader = PageReader(source)
        self.asked = asked
        self.about = about
        self.streams = 0
        self.ended = asyncio.Event()  # the session, or (``leaves``) this process alone
        self.leaves = False
        self._reads = ThreadPoolExecutor(1, "zray-dashboard-reads")
        self._asks = ThreadPoolExecutor(1, "zray-dashboard-asks")

    async def read(self, name: str, query: Query) -> dict[str, Any]:
        if self.ended.is_set() and self.reader.source.live:
            raise SourceError("the session has ended")
        return await _in(self._reads, lambda: views.make(self.reader, name, query))

    async def ask(self, question: Callable[[LiveSource], Any]) -> Any:
        asked = self.asked
        if asked is None or self.ended.is_set():
            raise SourceError("the session has ended")
        return await _in(self._asks, lambda: question(asked))

    async def close(self) -> None:
        await _in(self._reads, self.reader.source.close)
        if self.asked is not None:
            await _in(self._asks, self.asked.close)
        self._reads.shutdown()
        self._asks.shutdown()

    async def updates(self, name: str, query: Query) -> AsyncIterator[str]:
        """The stream of one page."""
        loop = asyncio.get_running_loop()
        last, said = "", loop.time()
        while not (self.ended.is_set() and self.reader.source.live):
            began = loop.time()
            try:
                text = _json(await self.read(name, query))
            except BadQuery as error:
                yield _event("bad", {"error": str(error)})
                return
            except SourceError as error:
                text = _json({"view": name, "error": str(error), "missing": []})
            if self.ended.is_set() and self.reader.source.live:
                break
            if text != last:
                last, said = text, loop.time()
                yield f"data: {text}\n\n"
            elif loop.time() - said >= BEAT_S:
                said = loop.time()
                yield ": nothing new\n\n"
            pause = max(INTERVAL_S, PATIENCE * (loop.time() - began))
            try:
                await asyncio.wait_for(self.ended.wait(), min(pause, BEAT_S))
            except TimeoutError:
                continue
            if not self.reader.source.live:
                await asyncio.sleep(pause)
        if not self.leaves:
            yield _event("ended", {"why": "The session has ended."})

    def stop(self) -> None:
        """End all streams, since this process ends."""
        self.leaves = not self.ended.is_set()
        self.ended.set()


async def _in(pool: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)


def _event(name: str, value: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {_json(value)}\n\n"


def application(dashboard: Dashboard, token: str) -> App:
    """The ASGI application of a dashboard."""

    async def session(request: Request) -> Response:
        live = dashboard.reader.source.live and not dashboard.ended.is_set()
        return JSONResponse({**dashboard.about, "live": live, "now_ms": int(time.time() * 1000),
                             "methods": list(METHODS) if live else [], "views": list(views.VIEWS)})

    async def read(request: Request) -> Response:
        return Response(_json(await dashboard.read(request.query_params.get("view", ""),
                                                   Query.of(request.query_params))), media_type="application/json")

    async def stream(request: Request) -> Response:
        query = Query.of(request.query_params)
        if dashboard.streams >= STREAMS_MAX:
            return JSONResponse({"error": f"{STREAMS_MAX} pages are open already: close one"}, 503)

        async def counted() -> AsyncIterator[str]:
            dashboard.streams += 1
            try:
                async for text in dashboard.updates(request.query_params.get("view", ""), query):
                    yield text
            finally:
                dashboard.streams -= 1

        return StreamingResponse(counted(), media_type="text/event-stream")

    async def ask(request: Request) -> Response:
        question = REQUESTS.get(request.path_params["name"])
        if question is None:
            raise BadQuery(f"the requests are {', '.join(REQUESTS)}")
        query = Query.of(request.query_params)
        return Response(_json(await dashboard.ask(lambda source: question(source, query))),
                        media_type="application/json")

    async def acts(request: Request) -> Response:
        try:
            given = await request.json()
        except ValueError:
            raise BadQuery("the action is not JSON") from None
        return JSONResponse({"done": await dashboard.ask(lambda source: act(source, given))})

    async def bad_query(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    async def no_data(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 409)

    routes = [Route("/api/session", session), Route("/api/read", read), Route("/api/stream", stream),
              Route("/api/ask/{name}", ask), Route("/api/act", acts, methods=["POST"]),
              Mount("/", StaticFiles(directory=str(files("zray.dashboard") / "static"), html=True))]
    return Guard(Starlette(routes=routes, exception_handlers={BadQuery: bad_query, SourceError: no_data}), token)
