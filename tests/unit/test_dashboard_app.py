"""The application of the dashboard over kept rows: its files, its headers, its errors and its streams."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.kept_rows import session

pytest.importorskip("starlette", reason="the extra zray[dashboard] is not installed")
httpx = pytest.importorskip("httpx", reason="httpx calls the application without a socket")

from zray.dashboard import app as module  # noqa: E402
from zray.dashboard.app import Dashboard, application  # noqa: E402
from zray.dashboard.query import Query  # noqa: E402
from zray.dashboard.source import SourceError  # noqa: E402

TOKEN = "the-token"


@pytest.fixture
def dashboard():
    made = Dashboard(session(), None, {"session_dir": "/s"})
    yield made
    asyncio.run(made.close())


class Client:
    """Requests to the application, without a socket."""

    def __init__(self, app):
        self.app = app

    def request(self, method, path, **more):
        async def run():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1:8265",
                                         headers={"Authorization": f"Bearer {TOKEN}"}) as client:
                return await client.request(method, path, **more)

        return asyncio.run(run())

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, **more):
        return self.request("POST", path, **more)


@pytest.fixture
def client(dashboard):
    return Client(application(dashboard, TOKEN))


def test_the_page_and_its_files_come_without_a_token_and_with_strict_headers(client):
    for path, kind in (("/", "text/html"), ("/style.css", "text/css"), ("/js/main.js", "javascript"),
                       ("/icon.svg", "svg")):
        answer = client.get(path, headers={"Authorization": ""})
        assert answer.status_code == 200 and kind in answer.headers["content-type"]
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in client.get("/").headers["content-security-policy"]


def test_files_outside_are_not_served(client):
    for path in ("/../app.py", "/%2e%2e/app.py", "/js/../../app.py", "/nothing", "/js/", "//etc/passwd"):
        assert client.get(path).status_code == 404


def test_the_session_and_each_view_need_the_token(client):
    assert client.get("/api/session").json()["live"] is False
    assert client.get("/api/read?view=overview").json()["phases"]["failed"] == 1
    for path in ("/api/session", "/api/read?view=overview", "/api/stream?view=overview", "/api/ask/stack"):
        answer = client.get(path, headers={"Authorization": "Bearer old"})
        assert answer.status_code == 401 and "zray dashboard" in answer.json()["error"]


def test_a_wrong_query_is_an_error_that_says_how(client):
    for path, words in (("/api/read?view=x", "the views are"), ("/api/read?view=tasks&sort=x", "the columns are"),
                        ("/api/read?view=tasks&limit=x", "whole number"), ("/api/ask/x", "the requests are")):
        answer = client.get(path)
        assert answer.status_code == 400 and words in answer.json()["error"]


def test_actions_on_a_session_that_has_ended_are_refused(client):
    answer = client.post("/api/act", json={"method": "kill", "id": "00"})
    assert answer.status_code == 409 and "has ended" in answer.json()["error"]
    assert client.post("/api/act", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.get("/api/act").status_code == 404


def test_there_is_no_websocket(client):
    sent = []

    async def run():
        async def send(message):
            sent.append(message["type"])

        await client.app({"type": "websocket", "path": "/api/stream", "headers": []}, None, send)

    asyncio.run(run())
    assert sent == ["websocket.close"]


# ---------------------------------------------------------------- streams


class Live:
    """A live source with a counter; it is asked only for jobs and metrics."""

    live = True

    def __init__(self):
        self.inner = session()
        self.asked = 0
        self.fails = False

    def rows(self, kind, *args, **more):
        self.asked += 1
        if self.fails:
            raise SourceError("the node does not answer")
        return self.inner.rows(kind)

    def ask(self, what, **args):
        return {"metrics": []}

    def close(self):
        pass


def test_a_stream_sends_what_has_changed_and_then_that_the_session_has_ended(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL_S", 0.0)
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr("zray.dashboard.reading.FRESH_S", 0.0)

    async def run():
        source = Live()
        dashboard = Dashboard(source, None, {})
        updates = dashboard.updates("jobs", Query())
        first = await anext(updates)
        assert first.startswith("data: ") and json.loads(first[6:])["view"] == "jobs"
        source.fails = True
        assert "does not answer" in await anext(updates)
        asked = source.asked
        await asyncio.sleep(0)
        assert source.asked == asked, "nothing is asked before the page has taken the last update"
        dashboard.ended.set()
        rest = [text async for text in updates]
        assert [text.splitlines()[0] for text in rest] == ["event: ended"]
        await dashboard.close()
        assert source.asked == asked

    asyncio.run(run())


def test_a_dashboard_that_is_stopped_does_not_say_that_the_session_has_ended():
    async def run():
        dashboard = Dashboard(Live(), None, {})
        updates = dashboard.updates("jobs", Query())
        await anext(updates)
        dashboard.stop()
        assert [text async for text in updates] == []
        await dashboard.close()

    asyncio.run(run())


def test_a_stream_that_has_nothing_new_sends_a_beat_and_no_data(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL_S", 0.0)
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "BEAT_S", 0.0)

    async def run():
        dashboard = Dashboard(Live(), None, {})
        updates = dashboard.updates("jobs", Query())
        assert (await anext(updates)).startswith("data: ")
        assert [await anext(updates) for _ in range(3)] == [": nothing new\n\n"] * 3
        await updates.aclose()
        await dashboard.close()

    asyncio.run(run())


def test_a_stream_of_a_wrong_query_ends_with_the_reason():
    async def run():
        dashboard = Dashboard(Live(), None, {})
        found = [text async for text in dashboard.updates("nothing", Query())]
        assert len(found) == 1 and found[0].startswith("event: bad") and "the views are" in found[0]
        await dashboard.close()

    asyncio.run(run())


def test_pages_beyond_the_limit_are_refused(client, dashboard):
    dashboard.streams = module.STREAMS_MAX
    answer = client.get("/api/stream?view=jobs")
    assert answer.status_code == 503 and "close one" in answer.json()["error"]
