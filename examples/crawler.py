"""A crawler: fetch pages in parallel, follow their links once each, retry pages that are busy.

The site is a small web server in this process, so a run needs no network and always finds the same.  A ``fetch`` task
raises what ``urllib`` raises.  ``retry_exceptions`` names the error that is worth another try, and the page of an error
that is not is reported with its status.

    python examples/crawler.py --pages 60 --in-flight 8
"""

from __future__ import annotations

import argparse
import contextlib
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import NamedTuple

import zray as ray

LINK = re.compile(r'href="([^"]+)"')


class Crawl(NamedTuple):
    """The pages that were read, links to each, what failed and how, and requests that the server has seen."""

    pages: int
    most_linked: list[tuple[str, int]]
    failed: dict[str, str]
    requests: int


class Site(BaseHTTPRequestHandler):
    """Page n links to pages 2n, 2n + 1 and n // 3.  Every 11th is missing, every 7th is busy at the first request."""

    pages = 0
    requests: Counter[int] = Counter()
    lock = Lock()

    def do_GET(self) -> None:
        number = int(self.path.strip("/") or 1)
        with self.lock:
            self.requests[number] += 1
            first = self.requests[number] == 1
        if number > self.pages or number % 11 == 0:
            return self.answer(404)
        if number % 7 == 0 and first:
            return self.answer(503)
        links = (f'<a href="/{other}">' for other in (2 * number, 2 * number + 1, number // 3 or 1)
                 if other <= self.pages)
        return self.answer(200, "".join(links))

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the output is the crawler's."""


@contextlib.contextmanager
def site(pages: int) -> Iterator[str]:
    """The address of a running site."""
    Site.pages = pages
    Site.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Busy(Exception):
    """The server asks to come back later."""


class Missing(Exception):
    """There is no such page."""


@ray.remote(max_retries=3, retry_exceptions=[Busy])
def fetch(address: str, path: str) -> list[str]:
    """The links of a page.

    Raises:
        Busy, Missing: for the statuses 503 and 404.
    """
    try:
        with urllib.request.urlopen(address + path, timeout=30) as page:
            return LINK.findall(page.read().decode())
    except urllib.error.HTTPError as error:
        error.close()
        raise (Busy if error.code == 503 else Missing)(f"{path}: {error.code}") from None


def main(pages: int = 60, in_flight: int = 8) -> Crawl:
    """Crawl a site of ``pages`` pages with at most ``in_flight`` requests at once."""
    linked: Counter[str] = Counter({"/1": 1})
    frontier, running, failed, read = ["/1"], {}, {}, 0
    with site(pages) as address:
        while frontier or running:
            while frontier and len(running) < in_flight:
                path = frontier.pop()
                running[fetch.remote(address, path)] = path
            [ready], _ = ray.wait(list(running), num_returns=1)
            path = running.pop(ready)
            try:
                links = ray.get(ready)
            except Missing as error:
                failed[path] = str(error.args[0])
                continue
            read += 1
            for link in links:
                if link not in linked:
                    frontier.append(link)
                linked[link] += 1
        requests = sum(Site.requests.values())
    most = sorted(linked.items(), key=lambda item: (-item[1], int(item[0][1:])))
    return Crawl(read, most[:3], dict(sorted(failed.items())), requests)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--in-flight", type=int, default=8)
    result = main(**vars(parser.parse_args()))
    print(f"{result.pages} pages in {result.requests} requests")
    print("most links:", *(f"{path} ({links})" for path, links in result.most_linked))
    print("failed:", *result.failed.values())
