"""The dashboard of a session as a browser would use it, and ``zray dashboard`` as a process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from tests.e2e.scripts import environment
from tests.e2e.target import until


class Page:
    """Requests with a token, to a dashboard at ``address``."""

    def __init__(self, address: str, token: str):
        self.address = address
        self.token = token

    @property
    def link(self) -> str:
        return f"http://{self.address}/#token={self.token}"

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status, and the JSON of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        given = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            given["Content-Type"] = "application/json"
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {**given, **{name.replace("_", "-"): value for name, value in headers.items()}})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def read(self, view: str, **query: str) -> dict[str, Any]:
        status, found = self.request("GET", f"/api/read?{urlencode({'view': view, **query})}")
        assert status == 200, found
        return found

    def ask(self, name: str, **query: str) -> str:
        status, found = self.request("GET", f"/api/ask/{name}?{urlencode(query)}")
        assert status == 200, found
        return found["text"]

    def act(self, method: str, identifier: str, **more: Any) -> tuple[int, Any]:
        return self.request("POST", "/api/act", {"method": method, "id": identifier, **more})

    @contextlib.contextmanager
    def stream(self, view: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """The events of a page's stream."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request("GET", f"/api/stream?view={view}", headers={"Authorization": f"Bearer {self.token}"})
            yield _events(connection.getresponse())
        finally:
            connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = "message"
    while line := answer.readline():
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
            name = "message"


def page_of(session_dir: str) -> Page:
    """The dashboard that runs for a session, once it has written its file."""
    from zray.node.running.dashboard import of_session

    found = until(lambda: of_session(session_dir), "the dashboard writes its file")
    return Page(found.address, found.token)


@contextlib.contextmanager
def served(session_dir: str, *arguments: str) -> Iterator[tuple[Page, subprocess.Popen[str]]]:
    """``zray dashboard`` for a session, ended as Ctrl-C ends it."""
    program = "import sys; from zray.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", program, "dashboard", "--address", session_dir, *arguments],
                               env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        link = process.stdout.readline().strip()
        assert first.startswith("The dashboard of"), first + process.stderr.read()
        address, _, token = link.removeprefix("http://").partition("/#token=")
        yield Page(address, token), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not os.path.exists(os.path.join(session_dir, "dashboard.json"))
