"""ASGI middleware around Streamlit: host and origin checks, login, session ownership, upload
limits, security headers.

`checked_serving_rules` decides before that whether the server may start at all.
"""

import os
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit import config
from streamlit.auth_util import get_redirect_uri, get_secrets_auth_section
from streamlit.runtime import Runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from sparsedash.jobs.cluster_parts import is_loopback
from sparsedash.schema.errors import SparseDashError, install_command
from sparsedash.storage.users import LOCAL, VARIABLE, Serving, serving_rules
from sparsedash.ui import browser_scripts, login

VISITOR = "sparsedash.visitor"
"""Key of a request's scope for the user who has logged in."""
MOST_FILES = 2
"""Uploads of each user in flight or unread in memory, 50 MB each. A page reads its file at once and
frees it.
"""

_HEALTH, _MEDIA, _UPLOADS = "/health", "/media/", "/_stcore/upload_file/"
_LEAST_SECRET = 32
_SEE = "docs/deployment.md says what a proxy must pass on."


def checked_serving_rules() -> Serving | None:
    """How others are served; None for this machine alone. Exits with a sentence where the
    configuration is not safe.

    It also tells Streamlit the public host, or its WebSocket is refused, and that a session belongs
    to its user: Streamlit then gives a session back only to the user that it began with.
    """
    try:
        rules = serving_rules()
    except SparseDashError as error:
        sys.exit(f"SparseDash is not served. {error}")
    if problem := _address_problem() if rules is None else _login_problem(rules):
        sys.exit(
            f"SparseDash is not served. {problem} docs/deployment.md says how, under “Serving others”."
        )
    if rules is not None:
        name, _, port = rules.host.rpartition(":")
        config.set_option(
            "server.allowedHosts",
            [name if port.isdecimal() else rules.host, "localhost", "127.0.0.1"],
        )
        config.set_option("server.trustedUserHeaders", {login.USER_HEADER: "visitor"})
    return rules


def _address_problem() -> str:
    address = config.get_option("server.address")
    if address and is_loopback(address):
        return ""
    where = (
        f"at {address}"
        if address
        else "at every address of this machine, since server.address names none"
    )
    return (
        f"It would listen {where}, and every client could read this user's files and delete every run: there is no "
        f"login. Let it listen at 127.0.0.1, or configure a login in the file named by {VARIABLE}."
    )


def _login_problem(rules: Serving) -> str:
    if rules.login == "header":
        # The server under Streamlit would put the browser's address, as the header says it, in the
        # proxy's place.
        if os.environ.get("FORWARDED_ALLOW_IPS") == "":
            return ""
        return (
            "A proxy's word counts only where its own address can be seen. Start with the environment variable "
            "FORWARDED_ALLOW_IPS set to an empty string."
        )
    if find_spec("authlib") is None or find_spec("httpx") is None:
        return f"Logins need packages that are not installed. Run: {install_command('-r requirements-serve.txt')}"
    section = get_secrets_auth_section()
    if len(str(section.get("cookie_secret", ""))) < _LEAST_SECRET:
        return f"[auth] of .streamlit/secrets.toml needs a cookie_secret of {_LEAST_SECRET} random characters or more."
    provider = section if rules.oidc.provider == "default" else section.get(rules.oidc.provider, {})
    for name in ("client_id", "client_secret", "server_metadata_url"):
        if not provider.get(name):
            return f"The provider of logins in .streamlit/secrets.toml has no {name}."
    uri = f"{rules.origin}/oauth2callback"
    if get_redirect_uri(section) != uri:
        return f"redirect_uri under [auth] of .streamlit/secrets.toml must be {uri}, as the address in {VARIABLE} says."
    return ""


def security_headers(app: ASGIApp) -> ASGIApp:
    """The application with the security headers on every response."""
    added = {
        "Content-Security-Policy": _content_security_policy(),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(added)
            await send(message)

        await app(scope, receive, send_with_headers if scope["type"] == "http" else send)

    return wrapped


def _content_security_policy() -> str:
    """Everything comes from this server, and nothing may frame it.

    Streamlit styles with inline styles, and its front page has one inline script: that and our own
    are named by hash.
    """
    page = (Path(streamlit.__file__).with_name("static") / "index.html").read_text(encoding="utf-8")
    hashes = browser_scripts.content_hashes(re.findall(r"<script>(.*?)</script>", page, re.DOTALL))
    return (
        f"default-src 'self'; script-src 'self' {' '.join(hashes)}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )


def access_check(app: ASGIApp, rules: Serving | None) -> ASGIApp:
    """The application for requests of this server's own pages and of users who have logged in.

    rules: how others are served; None on a server for this machine alone, without a login.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        is_socket = scope["type"] == "websocket"
        refusal = (
            _refusal(HTTPConnection(scope), rules) if is_socket or scope["type"] == "http" else None
        )
        if refusal is not None:
            await (WebSocketClose(code=1008) if is_socket else refusal)(scope, receive, send)
            return
        if rules is not None and scope.get("path", "").startswith(_MEDIA):
            send = _only_for(scope[VISITOR], send)
        await app(scope, receive, send)

    return wrapped


def _refusal(connection: HTTPConnection, rules: Serving | None) -> Response | None:
    """The answer in the application's place; None for a request that is let through, with its
    user's name.
    """
    if problem := _foreign(connection, rules):
        return PlainTextResponse(problem, status_code=403)
    headers = MutableHeaders(scope=connection.scope)
    del headers[login.USER_HEADER]
    if rules is None:
        return None
    name = login.authenticated_user(connection, rules)
    if name is None or not rules.lets_in(name):
        connection.scope[VISITOR] = None
        return _not_logged_in(connection, rules, name)
    connection.scope[VISITOR] = name
    headers[login.USER_HEADER] = quote(name)
    return login.redirect_after_login(connection)


def _not_logged_in(connection: HTTPConnection, rules: Serving, name: str | None) -> Response | None:
    url, is_http = connection.url, connection.scope["type"] == "http"
    if is_http and url.path == _HEALTH:
        return None
    if is_http and rules.login == "oidc" and url.path in login.LOGIN_ROUTES:
        return login.redirect_to_provider(rules) if url.path == login.LOGIN_PATH else None
    if "text/html" not in connection.headers.get("accept", ""):
        return PlainTextResponse("Log in first.", status_code=401)
    if name is not None:
        return login.no_access_page(rules, name)
    return login.login_page(rules, quote(url.path) + (f"?{url.query}" if url.query else ""))


def _foreign(connection: HTTPConnection, rules: Serving | None) -> str:
    """Why the request is not from a page of this server; empty where it may be."""
    host, origin = connection.headers.get("host", "").lower(), connection.headers.get("origin")
    if rules is None:
        here = connection.scope.get("server")
        if here is not None and not is_loopback(here[0]):
            return (
                "This server has no login and answers only its own machine. See docs/deployment.md."
            )
        is_served, is_own = (
            is_host_allowed(host),
            origin is None or urlsplit(origin).netloc.lower() == host,
        )
    else:
        is_health = connection.scope["path"] == _HEALTH and is_host_allowed(host)
        is_served = host == rules.host or is_health
        is_own = origin == rules.origin or (origin is None and connection.scope["type"] == "http")
    if not is_served:
        return f"Nothing is served under this name. {_SEE}"
    return "" if is_own else f"Only this server's own pages may ask. {_SEE}"


def may_see_details(scope: Scope) -> bool:
    """Whether a request for the health gets more than one word."""
    return scope.get(VISITOR, "") is not None


def _only_for(name: str, send: Send) -> Send:
    """Pass on a download of this user's, and answer 404 for one of another's."""
    refused = False

    async def send_own(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind, is_own = login.unmarked_media_type(headers.get("content-type", ""), name)
            refused = not is_own
            if kind:
                headers["content-type"] = kind
            if refused:
                message = {
                    "type": "http.response.start",
                    "status": 404,
                    "headers": [(b"content-length", b"0")],
                }
        elif refused:
            message = {
                "type": "http.response.body",
                "body": b"",
                "more_body": message.get("more_body", False),
            }
        await send(message)

    return send_own


def upload_guard(app: ASGIApp) -> ASGIApp:
    """The application with Streamlit's upload endpoint for own sessions only, and for few files at
    once.

    Inside `access_check`. That nobody reconnects to another user's session is Streamlit's own
    check, by what `checked_serving_rules` sets.
    """
    arriving = Counter[str]()

    def n_unread(name: str) -> int:
        return sum(
            len(kept)
            for session, kept in [*_files().file_storage.items()]
            if _is_session_of(session, name)
        )

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        name, answer = scope.get(VISITOR) or LOCAL, app
        _, is_upload, rest = (
            scope["path"].partition(_UPLOADS) if scope["type"] == "http" else ("", "", "")
        )
        n = int(bool(is_upload) and scope["method"] == "PUT")
        if is_upload and not _is_session_of(rest.partition("/")[0], name):
            answer, n = PlainTextResponse("There is no such session of yours.", status_code=404), 0
        elif n and arriving[name] + n_unread(name) >= MOST_FILES:
            text = f"{MOST_FILES} of your uploads are still in progress. Wait for them, or reload the page."
            answer, n = PlainTextResponse(text, status_code=429), 0
        arriving[name] += n
        try:
            await answer(scope, receive, send)
        finally:
            arriving[name] -= n
            if n or scope["type"] == "websocket":
                _free_closed()

    return wrapped


def _free_closed() -> None:
    """Free the files of closed pages."""
    for session in list(_files().file_storage):
        if not Runtime.instance().is_active_session(session):
            _files().remove_session_files(session)


def _files() -> MemoryUploadedFileManager:
    return cast(MemoryUploadedFileManager, Runtime.instance().uploaded_file_mgr)


def _is_session_of(session: str, name: str) -> bool:
    """Whether a page of this user is connected to the session; without logins all sessions are the
    one user's.
    """
    client = None if name == LOCAL else Runtime.instance().get_client(session)
    context = client.client_context if client else None
    return name == LOCAL or (
        context is not None and dict(context.headers).get(login.USER_HEADER) == quote(name)
    )
