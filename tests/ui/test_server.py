"""Headers, health and reconciling, without a server."""

import asyncio
import json
import sqlite3
import threading
import tomllib
from pathlib import Path

import pytest
from starlette.requests import Request

from sparsedash.schema.errors import StoreError
from sparsedash.ui import frame, server
from tests.ui.fake_backend import FakeBackend

ANYBODY = Request({"type": "http"})


def headers_of(scope_type: str) -> dict[str, str]:
    """The headers of an answer that went through the middleware."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": f"{scope_type}.response.start", "status": 200, "headers": [(b"x-own", b"kept")]})

    async def send(message):
        sent.append(message)

    asyncio.run(server.SecurityHeaders(app)({"type": scope_type}, None, send))
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_every_http_answer_gets_the_headers_and_keeps_its_own():
    headers = headers_of("http")
    assert headers["x-own"] == "kept"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_no_rerun_looks_through_every_answer_in_memory_for_garbage():
    config = Path(__file__).parents[2] / ".streamlit" / "config.toml"
    assert tomllib.loads(config.read_text())["runner"]["postScriptGC"] is False


def test_other_traffic_passes_untouched():
    assert headers_of("websocket") == {"x-own": "kept"}


def test_scripts_come_from_this_server_or_are_named_by_their_hash():
    policy = headers_of("http")["content-security-policy"]
    (scripts,) = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert "'self'" in scripts
    assert "unsafe" not in scripts


def test_health_says_what_the_backend_says(monkeypatch):
    monkeypatch.setattr(frame, "backend", FakeBackend)
    assert json.loads(server.health_route(ANYBODY).body) == {"status": "ok"}


def test_health_fails_while_the_data_folder_cannot_be_used(monkeypatch):
    def refuse():
        raise StoreError("no room")

    monkeypatch.setattr(frame, "backend", refuse)
    answer = server.health_route(ANYBODY)
    assert answer.status_code == 503
    assert json.loads(answer.body)["problem"] == "no room"


def test_jobs_are_reconciled_while_the_server_lives_and_a_failure_does_not_end_that(monkeypatch, caplog):
    reconciled = []

    def reconcile():
        reconciled.append(True)
        if len(reconciled) < 3:
            raise StoreError("no room")

    backend = FakeBackend()
    backend.reconcile = reconcile
    monkeypatch.setattr(frame, "backend", lambda: backend)
    monkeypatch.setattr(server, "RECONCILE_S", 0.001)

    async def live():
        async with server.lifespan(None):
            while len(reconciled) < 5:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(live(), 30))
    assert [record.message for record in caplog.records] == ["Jobs cannot be reconciled: no room"]


def while_living(monkeypatch, reconcile, look):
    """What `look` gives at last, while a server lives whose rounds do that."""
    backend = FakeBackend()
    backend.reconcile = reconcile
    monkeypatch.setattr(frame, "backend", lambda: backend)
    monkeypatch.setattr(server, "RECONCILE_S", 0.001)

    async def live():
        async with server.lifespan(None):
            while not (found := look()):
                await asyncio.sleep(0.001)
            return found

    return asyncio.run(asyncio.wait_for(live(), 30))


ERRORS = (
    ValueError("odd"),
    KeyError("odd"),
    sqlite3.OperationalError("odd"),
    RecursionError("odd"),
    MemoryError("odd"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_round_raises_the_next_one_comes(monkeypatch, caplog, error):
    rounds = []

    def reconcile():
        rounds.append(True)
        if len(rounds) < 3:
            raise error

    assert while_living(monkeypatch, reconcile, lambda: len(rounds) > 5)
    assert [record.message for record in caplog.records] == [f"Jobs cannot be reconciled: {error}"]
    assert caplog.records[0].exc_info


def unhealthy():
    answer = server.health_route(ANYBODY)
    return answer.status_code == 503 and json.loads(answer.body)["problem"]


def test_health_fails_once_no_round_was_completed_for_long_and_says_why(monkeypatch):
    def reconcile():
        raise StoreError("no room")

    monkeypatch.setattr(server, "LATE_S", 0.2)
    said = while_living(monkeypatch, reconcile, unhealthy)
    assert said == "The jobs have not been looked after for 0 s: no room"


def test_health_fails_while_a_round_does_not_end(monkeypatch):
    monkeypatch.setattr(server, "LATE_S", 0.2)
    over = threading.Event()
    try:
        assert "has not ended" in while_living(monkeypatch, over.wait, unhealthy)
    finally:
        over.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_fails_when_the_thread_is_dead(monkeypatch):
    class Dead(BaseException):
        """Passes through every handler."""

    def reconcile():
        raise Dead

    assert "dead" in while_living(monkeypatch, reconcile, unhealthy)


def test_health_is_well_while_rounds_are_completed(monkeypatch):
    monkeypatch.setattr(server, "LATE_S", 0.5)
    rounds = []

    def look():
        assert not unhealthy()
        return len(rounds) > 100

    assert while_living(monkeypatch, lambda: rounds.append(True), look)


def test_the_overview_by_its_name_is_the_front_page_with_the_same_question():
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "server": ("127.0.0.1", 8501),
        "path": "/overview",
        "query_string": b"run=a%20b",
        "headers": [],
    }
    assert server.front_page(Request(scope)).headers["location"] == "/?run=a%20b"
