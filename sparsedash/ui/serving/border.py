"""The border that every request crosses: only the server's own pages drive it, and only who has logged in comes in."""

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from sparsedash.schema.hosting.serving import Serving
from sparsedash.ui.serving import login, visitor
from sparsedash.ui.serving.start import is_this_machine

VISITOR = "sparsedash.visitor"
"""Where a request's scope names who has logged in."""

HEALTH = "/health"
_MEDIA = "/media/"


class Border:
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
        del name_headers[visitor.HEADER]
        if self._rules is None:
            return None
        name = login.visitor_of(connection, self._rules)
        connection.scope[VISITOR] = name if name is not None and self._rules.lets_in(name) else None
        if connection.scope[VISITOR] is not None:
            name_headers[visitor.HEADER] = visitor.as_header(str(name)).decode()
            return login.back_to_wanted(connection)
        return self._not_logged_in(connection, self._rules, name)

    def _not_logged_in(self, connection: HTTPConnection, rules: Serving, name: str | None) -> Response | None:
        path = connection.scope["path"]
        if path == HEALTH and connection.scope["type"] == "http":
            return None
        if rules.login == "oidc" and path in login.OPEN and connection.scope["type"] == "http":
            return login.to_provider(rules) if path == login.PATH else None
        if "text/html" not in connection.headers.get("accept", ""):
            return PlainTextResponse("Log in first.", status_code=401)
        if name is not None:
            return login.not_let_in(rules, name)
        return login.page(rules, connection.url.path + (f"?{connection.url.query}" if connection.url.query else ""))

    def _foreign(self, connection: HTTPConnection) -> str:
        """Why the request does not come from a page of this server; empty where it may."""
        host, origin = connection.headers.get("host", "").lower(), connection.headers.get("origin")
        here = connection.scope.get("server")
        if self._rules is None:
            if here is not None and not is_this_machine(here[0]):
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
            kind, mark = visitor.parted(headers.get("content-type", ""))
            refused = bool(mark) and not visitor.is_for(mark, name)
            if mark:
                headers["content-type"] = kind
            if refused:
                message = {"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]}
        elif refused:
            message = {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
        await send(message)

    return send_own
