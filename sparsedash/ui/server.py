"""The server besides its pages: middleware, health route, and the thread that reconciles jobs."""

import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse

from sparsedash.schema.errors import SparseDashError
from sparsedash.ui import frame
from sparsedash.ui.middleware import (
    access_check,
    checked_serving_rules,
    may_see_details,
    security_headers,
    upload_guard,
)

log = logging.getLogger(__name__)

RECONCILE_S = 1.0
LATE_S = 30.0
"""Seconds without a complete round after which the health is bad."""


@dataclass(eq=False)
class _Rounds:
    """Time of the last complete round of reconciling, and failures since."""

    done_at: float = field(default_factory=time.monotonic)
    problem: str = ""


_rounds: list[_Rounds] = []
"""Of this server: one while it lives."""


def _reconcile(stop: threading.Event, rounds: _Rounds) -> None:
    """Reconcile the job table about once a second."""
    while not stop.wait(RECONCILE_S):
        try:
            is_done = frame.backend().reconcile()
        except Exception as error:
            problem = str(error) or type(error).__name__
            if problem != rounds.problem:
                is_bug = not isinstance(error, SparseDashError)
                log.warning("Jobs cannot be reconciled: %s", problem, exc_info=is_bug)
            rounds.problem = problem
        else:
            # One that meets another call's round, which may hang, says nothing of it.
            if is_done:
                rounds.done_at = time.monotonic()
                rounds.problem = ""


def middleware() -> list[Middleware]:
    """The middleware of every request, outermost first. Exits rather than serve strangers."""
    rules = checked_serving_rules()
    return [
        Middleware(security_headers),
        Middleware(access_check, rules=rules),
        Middleware(upload_guard),
    ]


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Reconcile the job table in a thread for as long as the server lives."""
    stop = threading.Event()
    rounds = _Rounds()
    _rounds.append(rounds)
    threading.Thread(
        target=_reconcile, args=(stop, rounds), name="reconcile-jobs", daemon=True
    ).start()
    try:
        yield
    finally:
        stop.set()
        _rounds.remove(rounds)


def health_route(request: Request) -> JSONResponse:
    """The health of data folder and jobs as JSON; 503 while they fail or are not reconciled.

    On a server with logins, a request without one gets the status alone.
    """
    problem = ""
    try:
        health = frame.backend().health()
        for rounds in _rounds:
            late_s = time.monotonic() - rounds.done_at
            if late_s >= LATE_S:
                why = rounds.problem or "the last round has not ended"
                problem = f"The jobs have not been reconciled for {late_s:.0f} s: {why}"
    except SparseDashError as error:
        problem = error.message
    if problem:
        health = {"status": "error", "problem": problem}
    if not may_see_details(request.scope):
        health = {"status": health["status"]}
    return JSONResponse(health, status_code=503 if problem else 200)


def front_page(request: Request) -> RedirectResponse:
    """Redirect /overview to the root, where alone Streamlit knows its first page."""
    return RedirectResponse(f"/?{request.url.query}")
