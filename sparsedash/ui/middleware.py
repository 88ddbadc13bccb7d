"""ASGI middleware around Streamlit: host and origin checks, login, session ownership, upload limits; and whether the
server may start at all.
"""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

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

from sparsedash.schema.errors import SparseDashError
from sparsedash.storage.users import LOCAL, VARIABLE, Serving, serving_rules
from sparsedash.ui import current_user, login

_LEAST_SECRET = 32
_DOCS = "docs/deployment.md says how, under “Serving others”."


def checked_serving_rules() -> Serving | None:
    """How others are served; None where only this machine is. Ends the program, in words, where that cannot be.

    It also names the public host to Streamlit, which would refuse its WebSocket else, and makes the visitor a part of
    whose session is whose: Streamlit gives a session back only to whom it began with.
    """
    try:
        found = serving_rules()
    except SparseDashError as error:
        sys.exit(f"SparseDash is not served. {error}")
    problem = _of_address(config.get_option("server.address")) if found is None else _of_login(found)
    if problem:
        sys.exit(f"SparseDash is not served. {problem} {_DOCS}")
    if found is not None:
        name = found.host.rpartition(":")[0] if found.host.rpartition(":")[2].isdecimal() else found.host
        config.set_option("server.allowedHosts", [name, "localhost", "127.0.0.1"])
        config.set_option("server.trustedUserHeaders", {current_user.USER_HEADER: "visitor"})
    return found


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine reaches a server that listens there."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def _of_address(address: str | None) -> str:
    if address and is_loopback(address):
        return ""
    where = f"at {address}" if address else "at every address of this machine, since server.address names none"
    return (
        f"It would listen {where}, and whoever reached it could read this user's files and delete every run: there is "
        f"no login. Let it listen at 127.0.0.1, or name a file with a login in {VARIABLE}."
    )


def _of_login(found: Serving) -> str:
    return _of_header() if found.login == "header" else _of_oidc(found)


def _of_header() -> str:
    # The server under Streamlit would put the browser's address, as the header says it, in the proxy's place.
    if os.environ.get("FORWARDED_ALLOW_IPS") == "":
        return ""
    return (
        "A proxy's word counts only where its own address can be seen. Start with the environment variable "
        "FORWARDED_ALLOW_IPS set, and set to nothing."
    )


def _of_oidc(found: Serving) -> str:
    if find_spec("authlib") is None or find_spec("httpx") is None:
        return "Logins need packages that are not installed. Run: pip install -r requirements-serve.txt."
    section = get_secrets_auth_section()
    if len(str(section.get("cookie_secret", ""))) < _LEAST_SECRET:
        return f"[auth] of .streamlit/secrets.toml needs a cookie_secret of {_LEAST_SECRET} random characters or more."
    provider = section if found.oidc.provider == "default" else section.get(found.oidc.provider, {})
    for name in ("client_id", "client_secret", "server_metadata_url"):
        if not provider.get(name):
            return f"The provider of logins in .streamlit/secrets.toml has no {name}."
    meant = f"{found.origin}/oauth2callback"
    if get_redirect_uri(section) != meant:
        return (
            f"redirect_uri under [auth] of .streamlit/secrets.toml must be {meant}, as the address in {VARIABLE} says."
        )
    return ""


VISITOR = "sparsedash.visitor"
"""Where a request's scope names who has logged in."""

HEALTH = "/health"
_MEDIA = "/media/"


class AccessMiddleware:
    """Lets through to the wrapped application what may come in.

    rules: how others are served; None where only this machine is, and nobody logs in.
    """

    def __init__(self, app: ASGIApp, rules: Serving | None) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the application's place what may not come in."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        if refusal is None:
            if scope["path"].startswith(_MEDIA) and self._rules is not None:
                send = _only_for(scope[VISITOR], send)
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008)(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        """What is answered in the application's place; None where the request may come in, with the visitor's name."""
        if problem := self._foreign(connection):
            return PlainTextResponse(problem, status_code=403)
        name_headers = MutableHeaders(scope=connection.scope)
        del name_headers[current_user.USER_HEADER]
        if self._rules is None:
            return None
        name = login.authenticated_user(connection, self._rules)
        connection.scope[VISITOR] = name if name is not None and self._rules.lets_in(name) else None
        if connection.scope[VISITOR] is not None:
            name_headers[current_user.USER_HEADER] = current_user.user_header(str(name)).decode()
            return login.redirect_after_login(connection)
        return self._not_logged_in(connection, self._rules, name)

    def _not_logged_in(self, connection: HTTPConnection, rules: Serving, name: str | None) -> Response | None:
        path = connection.scope["path"]
        if path == HEALTH and connection.scope["type"] == "http":
            return None
        if rules.login == "oidc" and path in login.LOGIN_ROUTES and connection.scope["type"] == "http":
            return login.redirect_to_provider(rules) if path == login.LOGIN_PATH else None
        if "text/html" not in connection.headers.get("accept", ""):
            return PlainTextResponse("Log in first.", status_code=401)
        if name is not None:
            return login.no_access_page(rules, name)
        return login.login_page(
            rules, connection.url.path + (f"?{connection.url.query}" if connection.url.query else "")
        )

    def _foreign(self, connection: HTTPConnection) -> str:
        """Why the request does not come from a page of this server; empty where it may."""
        host, origin = connection.headers.get("host", "").lower(), connection.headers.get("origin")
        here = connection.scope.get("server")
        if self._rules is None:
            if here is not None and not is_loopback(here[0]):
                return "There is no login here, so that only the machine itself is answered. See docs/deployment.md."
            if not is_host_allowed(host):
                return f"Nothing is served under this name. {_SEE}"
            own = origin is None or urlsplit(origin).netloc.lower() == host
            return "" if own else f"Only this server's own pages may ask. {_SEE}"
        if host != self._rules.host and not (connection.scope["path"] == HEALTH and is_host_allowed(host)):
            return f"Nothing is served under this name. {_SEE}"
        if origin is None and connection.scope["type"] == "http":
            return ""
        return "" if origin == self._rules.origin else f"Only this server's own pages may ask. {_SEE}"


_SEE = "docs/deployment.md says what a proxy must pass on."


def may_see_details(scope: Scope) -> bool:
    """Whether whoever asks for the health is told more than one word."""
    return scope.get(VISITOR, "") is not None


def _only_for(name: str, send: Send) -> Send:
    """Passes on a download that is this visitor's, and answers 404 for one that is another's."""
    refused = False

    async def send_own(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind, mark = current_user.split_media_type(headers.get("content-type", ""))
            refused = bool(mark) and not current_user.may_download(mark, name)
            if mark:
                headers["content-type"] = kind
            if refused:
                message = {"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]}
        elif refused:
            message = {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
        await send(message)

    return send_own


MOST_FILES = 2
"""Of each visitor that arrive or lie in memory at once, 50 MB each. A page reads its file at once, and lets it go."""

_UPLOADS = "/_stcore/upload_file/"


class UploadMiddleware:
    """Guards Streamlit's upload endpoint. To be wrapped in `Border`, which names the visitor.

    That nobody reconnects to the session of another is Streamlit's own check: `start.rules` makes the visitor a part of
    what it compares.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._arriving: Counter[str] = Counter()
        self._in_memory: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse uploads to sessions of others and too many at once; free what a closed page has left."""
        name = scope.get(VISITOR) or LOCAL
        _, is_upload, rest = scope["path"].partition(_UPLOADS) if scope["type"] == "http" else ("", "", "")
        session, _, file = rest.partition("/")
        if scope["type"] == "websocket":
            try:
                await self._app(scope, receive, send)
            finally:
                self._free_closed(name)
        elif not is_upload:
            await self._app(scope, receive, send)
        elif name != LOCAL and not _is_session_of(session, name):
            await PlainTextResponse("There is no such session of yours.", status_code=404)(scope, receive, send)
        elif scope["method"] != "PUT":
            await self._app(scope, receive, send)
        elif self._arriving[name] >= MOST_FILES:
            said = f"{MOST_FILES} of your files are arriving already. Wait until one is here."
            await PlainTextResponse(said, status_code=429)(scope, receive, send)
        else:
            with self._arrival(name, session, file):
                await self._app(scope, receive, send)

    @contextmanager
    def _arrival(self, name: str, session: str, file: str) -> Iterator[None]:
        """Count a file while it arrives. The visitor's oldest file in memory makes room for it."""
        self._arriving[name] += 1
        files = _files()
        unread = [each for each in self._in_memory[name] if files.get_files(each[0], [each[1]])]
        while len(unread) > MOST_FILES - self._arriving[name]:
            files.remove_file(*unread.pop(0))
        self._in_memory[name] = unread
        try:
            yield
        finally:
            self._arriving[name] -= 1
            self._in_memory[name].append((session, file))
            self._free_closed(name)

    def _free_closed(self, name: str) -> None:
        """Free the files of this visitor's sessions whose page is closed."""
        for session in {session for session, _ in self._in_memory[name]}:
            if not Runtime.instance().is_active_session(session):
                _files().remove_session_files(session)


def _files() -> MemoryUploadedFileManager:
    return cast(MemoryUploadedFileManager, Runtime.instance().uploaded_file_mgr)


def _is_session_of(session: str, name: str) -> bool:
    """Whether a page of this visitor is connected to the session."""
    client = Runtime.instance().get_client(session)
    context = client.client_context if client else None
    return (
        context is not None
        and dict(context.headers).get(current_user.USER_HEADER) == current_user.user_header(name).decode()
    )
