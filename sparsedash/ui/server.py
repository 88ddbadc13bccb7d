"""The server besides its pages: middleware, health route, and the thread that reconciles jobs."""

import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse

from sparsedash.schema.errors import SparseDashError
from sparsedash.ui import frame
from sparsedash.ui.middleware import (
    AccessMiddleware,
    SecurityHeaders,
    UploadMiddleware,
    checked_serving_rules,
    may_see_details,
)

log = logging.getLogger(__name__)

RECONCILE_S = 1.0
LATE_S = 30.0
"""Seconds without a complete round after which the health is bad."""


class ReconcilingThread:
    """Reconciles the job table about once a second, from `start` to `stop`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._reconcile, name="reconcile-jobs", daemon=True)
        self._done_at = time.monotonic()
        self._problem = ""

    def start(self) -> None:
        """Begin."""
        self._done_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End after the present round."""
        self._stop.set()

    def trouble(self) -> str:
        """Why jobs are not reconciled, in words; empty while they are."""
        if self._stop.is_set():
            return ""
        if not self._thread.is_alive():
            return "The thread that looks after the jobs is dead. Start the server again."
        late_s = time.monotonic() - self._done_at
        if late_s < LATE_S:
            return ""
        why = f": {self._problem}" if self._problem else "; its last round has not ended."
        return f"The jobs have not been looked after for {late_s:.0f} s{why}"

    def _reconcile(self) -> None:
        while not self._stop.wait(RECONCILE_S):
            try:
                frame.backend().reconcile()
            except Exception as error:
                problem = str(error) or type(error).__name__
                if problem != self._problem:
                    is_bug = not isinstance(error, SparseDashError)
                    log.warning("Jobs cannot be reconciled: %s", problem, exc_info=is_bug)
                self._problem = problem
            else:
                self._done_at, self._problem = time.monotonic(), ""


_reconciling: list[ReconcilingThread] = []
"""Of this server: one while it lives."""


def middleware() -> list[Middleware]:
    """The middleware of every request, outermost first. Exits with a sentence rather than serve strangers."""
    rules = checked_serving_rules()
    return [Middleware(SecurityHeaders), Middleware(AccessMiddleware, rules=rules), Middleware(UploadMiddleware)]


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Reconcile the job table in a thread for as long as the server lives."""
    begun = ReconcilingThread()
    _reconciling.append(begun)
    begun.start()
    try:
        yield
    finally:
        begun.stop()
        _reconciling.remove(begun)


def health_route(request: Request) -> JSONResponse:
    """The health of data folder and jobs as JSON; status 503 while they cannot be used or nobody reconciles the jobs.

    On a server with logins, a request without one gets the status alone.
    """
    try:
        facts = frame.backend().health()
        problem = next((problem for begun in _reconciling if (problem := begun.trouble())), "")
    except SparseDashError as error:
        problem = error.message
    answer = {"status": "error", "problem": problem} if problem else facts
    if not may_see_details(request.scope):
        answer = {"status": answer["status"]}
    return JSONResponse(answer, status_code=503 if problem else 200)


def front_page(request: Request) -> RedirectResponse:
    """Redirect /overview to the root: Streamlit knows its first page only there, and says "not found" besides."""
    return RedirectResponse(f"/?{request.url.query}")
