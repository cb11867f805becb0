"""Which requests the dashboard serves: Host, Origin, token, method, size."""

from __future__ import annotations

import pytest

from zray.dashboard.guard import BODY_MAX, refusal

TOKEN = "right"
OURS = {"host": "127.0.0.1:8265", "authorization": f"Bearer {TOKEN}"}


def status(method: str = "GET", path: str = "/api/read", **headers: str) -> int:
    given = {**OURS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    refused = refusal(method, path, {name: value for name, value in given.items() if value}, TOKEN)
    return refused[0] if refused else 200


def test_our_page_with_the_token_is_served():
    assert status() == 200
    assert status(origin="http://127.0.0.1:8265", sec_fetch_site="same-origin") == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:9000", "LOCALHOST", "[::1]:8265", "[::1]"])
def test_every_name_of_this_machine_is_served_at_any_port_that_ssh_may_forward(host):
    assert status(host=host) == 200


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "127.0.0.1:8265:1", "127.0.0.1:x",
                                  "user@127.0.0.1", "0.0.0.0:8265", "localhost.", "[::1"])
def test_another_host_is_refused_though_its_name_may_lead_here(host):
    assert status(host=host) == 403 == status(path="/", host=host)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8265", "http://127.0.0.1:9999",
                                    "http://127.0.0.1:8265.evil.example"])
def test_another_origin_is_refused_with_the_right_token_too(origin):
    assert status(origin=origin) == 403
    assert status("POST", "/api/act", origin=origin, content_type="application/json", content_length="2") == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_browser_that_says_another_site_asks_is_refused(site):
    assert status(sec_fetch_site=site) == 403


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic right", "right", "Bearer rightx", "Bearer é"])
def test_a_missing_or_old_token_is_refused_where_the_session_shows(given):
    assert status(authorization=given) == 401
    assert status(path="/", authorization=given) == 200, "the page itself has nothing of the session"


def test_an_action_is_json_of_bounded_size_and_nothing_else():
    action = {"method": "POST", "path": "/api/act"}
    assert status(**action, content_type="application/json", content_length="30") == 200
    assert status(**action, content_type="application/json; charset=utf-8", content_length="30") == 200
    assert status(**action, content_type="text/plain", content_length="30") == 415, "a form of another page sends that"
    assert status(**action, content_type="application/json", content_length=str(BODY_MAX + 1)) == 413
    assert status(**action, content_type="application/json", content_length="many") == 413
    assert status(**action, content_type="application/json", transfer_encoding="chunked") == 413
    assert status("DELETE", "/api/act") == 405 == status("OPTIONS", "/api/act")
