"""Headers, health and reconciling, without a server."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from sparsedash.schema.errors import StoreError
from sparsedash.ui import frame, server
from sparsedash.ui.middleware import security_headers

ANYBODY = Request({"type": "http"})


def headers_of(scope_type: str) -> dict[str, str]:
    """The headers of an answer that went through the middleware."""
    sent = []

    async def app(scope, receive, send):
        await send(
            {
                "type": f"{scope_type}.response.start",
                "status": 200,
                "headers": [(b"x-own", b"kept")],
            }
        )

    async def send(message):
        sent.append(message)

    asyncio.run(security_headers(app)({"type": scope_type}, None, send))
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_every_http_answer_gets_the_headers_and_keeps_its_own():
    headers = headers_of("http")
    kept = {
        "x-own": "kept",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    kept |= {
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    assert headers.items() >= kept.items()
    policy = headers["content-security-policy"]
    (scripts,) = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert (
        "frame-ancestors 'none'" in policy
        and "'self'" in scripts
        and "unsafe" not in scripts
    )
    assert scripts.count("'sha256-") >= 3, (
        "Streamlit's own script and ours are named by their hashes"
    )
    assert headers_of("websocket") == {"x-own": "kept"}


def test_health_says_what_the_backend_says_and_fails_while_the_data_folder_cannot_be_used(
    monkeypatch,
):
    def refuse():
        raise StoreError("no room")

    monkeypatch.setattr(
        frame, "backend", lambda: SimpleNamespace(health=lambda: {"status": "ok"})
    )
    assert json.loads(server.health_route(ANYBODY).body) == {"status": "ok"}
    monkeypatch.setattr(frame, "backend", refuse)
    answer = server.health_route(ANYBODY)
    assert answer.status_code == 503 and json.loads(answer.body)["problem"] == "no room"


def while_living(monkeypatch, reconcile, look):
    """What `look` gives at last, while a server lives whose rounds do that."""
    backend = SimpleNamespace(reconcile=reconcile, health=lambda: {"status": "ok"})
    monkeypatch.setattr(frame, "backend", lambda: backend)
    monkeypatch.setattr(server, "RECONCILE_S", 0.001)

    async def live():
        async with server.lifespan(None):
            while not (outcome := look()):
                await asyncio.sleep(0.001)
            return outcome

    return asyncio.run(asyncio.wait_for(live(), 30))


@pytest.mark.parametrize("kind", [StoreError, MemoryError])
def test_whatever_a_round_raises_the_next_one_comes_and_it_is_logged_once(
    monkeypatch, caplog, kind
):
    rounds = []

    def reconcile():
        rounds.append(True)
        if len(rounds) < 3:
            raise kind("odd")
        return True

    assert while_living(monkeypatch, reconcile, lambda: len(rounds) > 5)
    assert [record.message for record in caplog.records] == [
        f"Jobs cannot be reconciled: {kind('odd')}"
    ]
    assert bool(caplog.records[0].exc_info) == (kind is not StoreError), (
        "a traceback of what nobody expects"
    )


LATE = "The jobs have not been reconciled"


def unhealthy():
    answer = server.health_route(ANYBODY)
    return answer.status_code == 503 and json.loads(answer.body)["problem"]


def test_health_fails_once_no_round_was_completed_for_long_and_says_why(monkeypatch):
    def reconcile():
        raise StoreError("no room")

    rounds = []
    over = threading.Event()
    assert while_living(
        monkeypatch,
        lambda: not rounds.append(True),
        lambda: len(rounds) > 9 and not unhealthy(),
    )
    monkeypatch.setattr(server, "LATE_S", 0.05)
    # Rounds that only meet another one, which does not end.
    assert while_living(
        monkeypatch,
        lambda: False,
        lambda: unhealthy() == f"{LATE} for 0 s: the last round has not ended",
    )
    assert while_living(
        monkeypatch, reconcile, lambda: unhealthy() == f"{LATE} for 0 s: no room"
    )
    try:
        assert while_living(
            monkeypatch,
            over.wait,
            lambda: unhealthy() == f"{LATE} for 0 s: the last round has not ended",
        )
    finally:
        over.set()


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
