"""What the server does beside drawing pages: security headers, the health route, and keeping the jobs going."""

import base64
import hashlib
import logging
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparsedash.schema.errors import SparseDashError
from sparsedash.ui import frame
from sparsedash.ui.polling import RECONCILE_S

log = logging.getLogger(__name__)


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


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Reconcile the job table in a thread for as long as the server lives."""
    stop = threading.Event()
    thread = threading.Thread(target=_reconcile_until, args=(stop,), name="reconcile-jobs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def health(_request: Request) -> JSONResponse:
    """The health of the data folder and the jobs as JSON; status 503 while they cannot be used."""
    try:
        return JSONResponse(frame.backend().health())
    except SparseDashError as error:
        return JSONResponse({"status": "error", "problem": error.message}, status_code=503)


def front_page(request: Request) -> RedirectResponse:
    """Redirect /overview to the root, under which alone Streamlit knows its first page; else it says "not found"
    besides.
    """
    return RedirectResponse(f"/?{request.url.query}")


def _reconcile_until(stop: threading.Event) -> None:
    problem = ""
    while not stop.wait(RECONCILE_S):
        try:
            frame.backend().reconcile()
            problem = ""
        except (SparseDashError, OSError) as error:
            if str(error) != problem:
                log.warning("Jobs cannot be reconciled: %s", error)
            problem = str(error)


def _policy() -> str:
    """Content security policy: everything from this server, nothing may frame it.

    Streamlit styles with inline styles and its front page has one inline script, named here by its hash.
    """
    page = Path(streamlit.__file__).with_name("static") / "index.html"
    inline = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inline]
    scripts = ["'self'", *(f"'sha256-{digest}'" for digest in digests)]
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
