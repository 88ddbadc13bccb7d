"""ASGI middleware: hosts and origins, login, ownership of sessions, uploads, headers.

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
from starlette.datastructures import Headers, MutableHeaders
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
from sparsedash.storage.serving import LOCAL, VARIABLE, Serving, serving_rules
from sparsedash.storage.text_files import MAX_BYTES
from sparsedash.ui import browser_scripts, login

USER = "sparsedash.user"
"""Key of a request's scope for the user who has logged in."""
MAX_FILES = 2
"""Of the largest size: uploads of each user in flight or unread in memory; more of smaller ones. A
page reads its files at once and frees them.
"""

_HEALTH = "/health"
_MEDIA = "/media/"
_UPLOADS = "/_stcore/upload_file/"
_MIN_SECRET = 32
_SEE = "docs/deployment.md says what a proxy must pass on."


def checked_serving_rules() -> Serving | None:
    """Rules for serving others; None for this machine alone. Exits if that would not be safe.

    Sets Streamlit's options too: the public host, or its WebSocket is refused, and the header with
    the user, to whom alone it then gives a session back.
    """
    try:
        rules = serving_rules()
    except SparseDashError as error:
        sys.exit(f"SparseDash is not served. {error}")
    problem = _address_problem() if rules is None else _login_problem(rules)
    if problem:
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
    where = "at every address of this machine, since server.address names none"
    address = config.get_option("server.address")
    if address:
        if is_loopback(address):
            return ""
        where = f"at {address}"
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
    if len(str(section.get("cookie_secret", ""))) < _MIN_SECRET:
        return f"[auth] of .streamlit/secrets.toml needs a cookie_secret of {_MIN_SECRET} random characters or more."
    provider = (
        section
        if rules.oidc.provider == "default"
        else section.get(rules.oidc.provider, {})
    )
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

        await app(
            scope, receive, send_with_headers if scope["type"] == "http" else send
        )

    return wrapped


def _content_security_policy() -> str:
    """Everything comes from this server, and nothing may frame it.

    Streamlit styles with inline styles, and its front page has one inline script: that and our own
    are named by hash.
    """
    page = (Path(streamlit.__file__).with_name("static") / "index.html").read_text(
        encoding="utf-8"
    )
    hashes = browser_scripts.content_hashes(
        re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    )
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
        if scope["type"] in ("http", "websocket"):
            refusal: ASGIApp | None = _refusal(HTTPConnection(scope), rules)
            if refusal is not None:
                if scope["type"] == "websocket":
                    refusal = WebSocketClose(code=1008)
                await refusal(scope, receive, send)
                return
        if rules is not None and scope.get("path", "").startswith(_MEDIA):
            send = _only_for(scope[USER], send)
        await app(scope, receive, send)

    return wrapped


def _refusal(connection: HTTPConnection, rules: Serving | None) -> Response | None:
    """The answer in the application's place; None for a request that may pass."""
    if problem := _foreign(connection, rules):
        return PlainTextResponse(problem, status_code=403)
    headers = MutableHeaders(scope=connection.scope)
    del headers[login.USER_HEADER]
    if rules is None:
        return None
    name = login.authenticated_user(connection, rules)
    if name is None or not rules.allows_user(name):
        connection.scope[USER] = None
        return _not_logged_in(connection, rules, name)
    connection.scope[USER] = name
    headers[login.USER_HEADER] = quote(name)
    return login.redirect_after_login(connection)


def _not_logged_in(
    connection: HTTPConnection, rules: Serving, name: str | None
) -> Response | None:
    url = connection.url
    is_http = connection.scope["type"] == "http"
    if is_http and url.path == _HEALTH:
        return None
    if is_http and rules.login == "oidc" and url.path in login.LOGIN_ROUTES:
        return (
            login.redirect_to_provider(rules) if url.path == login.LOGIN_PATH else None
        )
    if "text/html" not in connection.headers.get("accept", ""):
        return PlainTextResponse("Log in first.", status_code=401)
    if name is not None:
        return login.no_access_page(rules, name)
    return login.login_page(
        rules, quote(url.path) + (f"?{url.query}" if url.query else "")
    )


def _foreign(connection: HTTPConnection, rules: Serving | None) -> str:
    """The reason the request is not from a page of this server; empty if it may be."""
    host = connection.headers.get("host", "").lower()
    origin = connection.headers.get("origin")
    if rules is None:
        server = connection.scope.get("server")
        if server is not None and not is_loopback(server[0]):
            return "This server has no login and answers only its own machine. See docs/deployment.md."
        is_served = is_host_allowed(host)
        is_own = origin is None or urlsplit(origin).netloc.lower() == host
    else:
        is_health = connection.scope["path"] == _HEALTH and is_host_allowed(host)
        is_served = host == rules.host or is_health
        is_own = origin == rules.origin or (
            origin is None and connection.scope["type"] == "http"
        )
    if not is_served:
        return f"Nothing is served under this name. {_SEE}"
    return "" if is_own else f"Only this server's own pages may ask. {_SEE}"


def may_see_details(scope: Scope) -> bool:
    """Whether a request for the health gets more than one word."""
    return scope.get(USER, "") is not None


def _only_for(user: str, send: Send) -> Send:
    """Pass on a download of this user's, and answer 404 for one of another's."""
    refused = False

    async def send_own(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind, is_own = login.unmarked_media_type(
                headers.get("content-type", ""), user
            )
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
    """The application with uploads for the user's own sessions only, and few at once.

    Inside `access_check`. That nobody reconnects to another user's session is Streamlit's own
    check, by what `checked_serving_rules` sets.
    """
    arriving = Counter[str]()

    def unread_bytes(user: str) -> int:
        n_bytes = 0
        for session, files in list(_files().file_storage.items()):
            if _is_session_of(session, user):
                n_bytes += sum(len(file.data) for file in list(files.values()))
        return n_bytes

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _UPLOADS not in scope["path"]:
            try:
                await app(scope, receive, send)
            finally:
                if scope["type"] == "websocket":
                    _free_closed()
            return
        user = scope.get(USER) or LOCAL
        session = scope["path"].partition(_UPLOADS)[2].partition("/")[0]
        if not _is_session_of(session, user):
            refusal = PlainTextResponse(
                "There is no such session of yours.", status_code=404
            )
            await refusal(scope, receive, send)
            return
        if scope["method"] != "PUT":
            await app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        size = min(MAX_BYTES, int(length)) if length.isdecimal() else MAX_BYTES
        if arriving[user] + unread_bytes(user) + size > MAX_FILES * MAX_BYTES:
            text = (
                "Your uploads are still in progress. Wait for them, or reload the page."
            )
            await PlainTextResponse(text, status_code=429)(scope, receive, send)
            return
        arriving[user] += size
        try:
            await app(scope, receive, send)
        finally:
            arriving[user] -= size
            _free_closed()

    return wrapped


def _free_closed() -> None:
    """Free the files of closed pages."""
    for session in list(_files().file_storage):
        if not Runtime.instance().is_active_session(session):
            _files().remove_session_files(session)


def _files() -> MemoryUploadedFileManager:
    return cast(MemoryUploadedFileManager, Runtime.instance().uploaded_file_mgr)


def _is_session_of(session: str, user: str) -> bool:
    """Whether a page of this user is connected to the session; always without logins."""
    if user == LOCAL:
        return True
    client = Runtime.instance().get_client(session)
    context = client.client_context if client else None
    return context is not None and dict(context.headers).get(
        login.USER_HEADER
    ) == quote(user)
