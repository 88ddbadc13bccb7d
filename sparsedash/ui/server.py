"""The server besides its pages: security headers, health route, and the thread that reconciles jobs."""

import base64
import hashlib
import logging
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparsedash.schema.errors import SparseDashError
from sparsedash.ui import browser_notices, chart_files, frame
from sparsedash.ui import middleware as start
from sparsedash.ui.frame import RECONCILE_S
from sparsedash.ui.middleware import AccessMiddleware, UploadMiddleware, may_see_details

log = logging.getLogger(__name__)

LATE_S = 30.0
"""Without a whole round for so long, jobs are no longer looked after."""


class ReconcilingThread:
    """Reconciles the job table about once a second, from `start` to `stop`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="reconcile-jobs", daemon=True)
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
        """Why jobs are not looked after, in words; empty while they are."""
        if self._stop.is_set():
            return ""
        if not self._thread.is_alive():
            return "The thread that looks after the jobs is dead. Start the server again."
        late_s = time.monotonic() - self._done_at
        if late_s < LATE_S:
            return ""
        why = f": {self._problem}" if self._problem else "; its last round has not ended."
        return f"The jobs have not been looked after for {late_s:.0f} s{why}"

    def _go_on(self) -> None:
        while not self._stop.wait(RECONCILE_S):
            try:
                frame.backend().reconcile()
            except Exception as error:  # noqa: BLE001 - nobody else notices dead workers: the next round must come
                self._note(error)
            else:
                self._done_at, self._problem = time.monotonic(), ""

    def _note(self, error: Exception) -> None:
        problem = str(error) or type(error).__name__
        if problem != self._problem:
            log.warning("Jobs cannot be reconciled: %s", problem, exc_info=not isinstance(error, SparseDashError))
        self._problem = problem


_reconciling: list[ReconcilingThread] = []
"""Of this server: one while it lives."""


class SecurityHeaders:
    """Adds the security headers to every response of the wrapped application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": _policy(),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through, with the headers put on the start of each HTTP response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def middleware() -> list[Middleware]:
    """What every request goes through, the outermost first. Ends the program, in words, rather than serve strangers."""
    return [
        Middleware(SecurityHeaders),
        Middleware(AccessMiddleware, rules=start.checked_serving_rules()),
        Middleware(UploadMiddleware),
    ]


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
    """The health of the data folder and the jobs as JSON; status 503 while they cannot be used, or nobody looks after
    the jobs. Where others are served, who has not logged in is told the status alone.
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
    """Redirect /overview to the root, under which alone Streamlit knows its first page; else it says "not found"
    besides.
    """
    return RedirectResponse(f"/?{request.url.query}")


def _policy() -> str:
    """Content security policy: everything from this server, nothing may frame it.

    Streamlit styles with inline styles, and its front page has one inline script; that and our own are named here by
    their hashes.
    """
    page = Path(streamlit.__file__).with_name("static") / "index.html"
    inline = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inline]
    scripts = ["'self'", *(f"'sha256-{digest}'" for digest in digests), f"'{browser_notices.notice_script_digest()}'"]
    scripts.append(f"'{chart_files.chart_script_digest()}'")
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src {' '.join(scripts)}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )
