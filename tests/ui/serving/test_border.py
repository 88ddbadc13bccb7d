"""What crosses the border of the server: requests as ASGI gives them, without a server."""

import asyncio
import json
from dataclasses import replace

import pytest
from starlette.requests import Request

from sparsedash.storage.users import HeaderLogin, Serving
from sparsedash.ui import current_user, frame, login, server
from sparsedash.ui.middleware import AccessMiddleware, may_see_details
from tests.ui.fake_backend import FakeBackend

RULES = Serving(
    address="https://sparse.example.org",
    login="header",
    administrators=("root",),
    header=HeaderLogin(name="X-Remote-User", proxies=("10.0.0.2",)),
)
OWN = {"host": "sparse.example.org", "origin": "https://sparse.example.org"}
HERE = ("127.0.0.1", 8501)


def crossed(rules, path="/prune", kind="http", server=HERE, client=("10.0.0.2", 5), media_type="", **headers):
    """What came of a request: the status, the body, and the scope that the application saw or None."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": kind,
        "path": path,
        "query_string": b"",
        "server": server,
        "client": client,
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    seen, sent = [], []

    async def app(scope, receive, send):
        seen.append(scope)
        if kind == "http":
            kept = [(b"content-type", media_type.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": kept})
            await send({"type": "http.response.body", "body": b"whole"})

    async def send(message):
        sent.append(message)

    asyncio.run(AccessMiddleware(app, rules)(scope, None, send))
    starts = [message for message in sent if message["type"] == "http.response.start"]
    body = b"".join(message.get("body", b"") for message in sent)
    if kind == "websocket":
        return ("open" if seen else sent[0]["type"]), body, seen
    return starts[0], body, seen


def status(*arguments, **options):
    start, _, seen = crossed(*arguments, **options)
    assert bool(seen) == (start["status"] == 200)
    return start["status"]


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("localhost:8501", None, True),
        ("127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("localhost:8501", "http://localhost:8501", True),
        ("localhost:8501", "http://localhost:9999", False),
        ("127.0.0.1:8501", "http://localhost:8501", False),
        ("127.0.0.1:8501", "http://127.0.0.1", False),
        ("127.0.0.1:8501", "null", False),
        ("127.0.0.1:8501", "https://evil.example", False),
        ("evil.example:8501", None, False),
        ("evil.example:8501", "http://evil.example:8501", False),
        ("", None, False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_this_server_s_own_pages_drive_it_on_loopback(kind, host, origin, allowed):
    headers = {"host": host} | ({"origin": origin} if origin else {})
    if kind == "http":
        assert status(None, **headers) == (200 if allowed else 403)
    else:
        assert crossed(None, "/_stcore/stream", kind, **headers)[0] == ("open" if allowed else "websocket.close")


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.0.9", "2001:db8::1"])
def test_what_comes_in_from_elsewhere_is_refused_while_there_is_no_login(address):
    assert status(None, server=(address, 8501), host="127.0.0.1:8501") == 403
    assert status(None, server=("::1", 8501), host="127.0.0.1:8501") == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "127.0.0.1:8501"},
        {"host": "evil.example"},
        {"origin": "http://sparse.example.org"},
        {"origin": "https://sparse.example.org:8443"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_where_others_are_served_host_and_origin_are_those_of_the_address(kind, changed):
    headers = {**OWN, "x_remote_user": "ada", **changed}
    result = crossed(RULES, kind=kind, **headers)
    assert result[2] == []
    assert result[0] == "websocket.close" if kind == "websocket" else result[0]["status"] == 403


def test_a_page_of_the_server_itself_comes_in_with_its_visitor_s_name():
    for kind in ("http", "websocket"):
        _, _, (scope,) = crossed(RULES, kind=kind, x_remote_user="Ada Löve", **OWN)
        assert (b"x-sparsedash-visitor", b"ada%20l%C3%B6ve") in scope["headers"]


def test_a_websocket_without_an_origin_is_no_page_s():
    assert crossed(RULES, kind="websocket", host="sparse.example.org", x_remote_user="ada")[0] == "websocket.close"
    assert status(RULES, host="sparse.example.org", x_remote_user="ada") == 200


@pytest.mark.parametrize(
    "path", ["/", "/prune", "/static/js/index.js", "/media/abc.csv", "/_stcore/health", "/component"]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_nothing_is_shown_to_who_has_not_logged_in(path, kind):
    result = crossed(RULES, path, kind, **OWN)
    assert result[2] == []
    assert result[0] == "websocket.close" if kind == "websocket" else result[0]["status"] == 401


def test_the_header_counts_from_the_proxy_alone_and_only_once():
    assert status(RULES, client=("10.0.0.3", 5), x_remote_user="ada", **OWN) == 401
    assert status(RULES, client=None, x_remote_user="ada", **OWN) == 401
    assert status(RULES, x_remote_user="", **OWN) == 401
    twice = Request({"type": "http", "client": ("10.0.0.2", 5), "headers": [(b"x-remote-user", b"ada")] * 2})
    assert login.authenticated_user(twice, RULES) is None


def test_what_a_browser_says_of_itself_is_dropped():
    _, _, (scope,) = crossed(RULES, x_remote_user="ada", x_sparsedash_visitor="root", **OWN)
    assert [value for name, value in scope["headers"] if name == b"x-sparsedash-visitor"] == [b"ada"]
    _, _, (scope,) = crossed(None, host="localhost", x_sparsedash_visitor="root")
    assert b"x-sparsedash-visitor" not in dict(scope["headers"])


def test_who_is_not_on_the_list_is_told_so():
    listed = replace(RULES, visitors=("ada",))
    assert status(listed, x_remote_user="ada", **OWN) == 200
    assert status(listed, x_remote_user="root", **OWN) == 200
    start, body, _ = crossed(listed, x_remote_user="<b>eve", accept="text/html", **OWN)
    assert start["status"] == 403
    assert b"&lt;b&gt;eve" in body


@pytest.mark.parametrize(("rules", "details"), [(None, True), (RULES, False)])
def test_the_health_is_one_word_for_who_has_not_logged_in(monkeypatch, rules, details):
    monkeypatch.setattr(frame, "backend", FakeBackend)
    monkeypatch.setattr(FakeBackend, "health", lambda self: {"status": "ok", "running": 3})
    for named in ("127.0.0.1:8501", *([OWN["host"]] if rules else [])):
        _, _, (scope,) = crossed(rules, "/health", host=named)
        assert may_see_details(scope) == details
        assert json.loads(server.health_route(Request(scope)).body) == {"status": "ok"} | (
            {"running": 3} if details else {}
        )
    if rules:
        _, _, (scope,) = crossed(rules, "/health", x_remote_user="ada", host=OWN["host"])
        assert "running" in json.loads(server.health_route(Request(scope)).body)


def test_a_download_is_its_visitor_s_and_its_mark_stays_here(monkeypatch):
    monkeypatch.setattr(current_user, "serving", lambda: RULES)
    monkeypatch.setattr(current_user, "current_user", lambda: "ada")
    marked = current_user.private_media_type("text/csv")
    assert marked.startswith("text/csv; ")
    start, body, _ = crossed(RULES, "/media/a.csv", media_type=f"{marked}; charset=utf-8", x_remote_user="ada", **OWN)
    assert (start["status"], dict(start["headers"])[b"content-type"], body) == (200, b"text/csv", b"whole")
    start, body, _ = crossed(RULES, "/media/a.csv", media_type=marked, x_remote_user="bob", **OWN)
    assert (start["status"], body) == (404, b"")
    start, body, _ = crossed(RULES, "/media/logo.svg", media_type="image/svg+xml", x_remote_user="bob", **OWN)
    assert (start["status"], body) == (200, b"whole")


def test_downloads_carry_no_mark_while_nobody_else_is_served(monkeypatch):
    monkeypatch.delenv("SPARSEDASH_SERVE", raising=False)
    assert current_user.private_media_type("text/csv") == "text/csv"
