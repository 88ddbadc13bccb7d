"""The user of a request by proxy header or cookie, the login page, downloads for one user."""

import hashlib
import hmac
import json
import secrets
from pathlib import Path
from urllib.parse import unquote

import streamlit as st
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from streamlit.auth_util import encode_provider_token, get_cookie_with_chunks
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from sparsedash.reporting.html import element, escape
from sparsedash.storage.serving import LOCAL, Serving, serving_rules, user_name

USER_HEADER = "x-sparsedash-visitor"
"""The user's name, quoted. Set by the middleware alone: what a browser sends under this name is
dropped.
"""

LOGIN_PATH = "/login"
"""Redirects to the login provider."""
LOGIN_ROUTES = (LOGIN_PATH, "/auth/login", "/auth/logout", "/oauth2callback")
"""The routes of the login itself; the only ones, beside the one-word health, that are open to
everybody.
"""

_MARK = "sparsedash-for"
_SECRET = secrets.token_bytes(32)
_WANTED = "sparsedash_wanted"
_WANTED_S = 600
_LONGEST_WANTED = 3000
"""Characters of the address to return to after the login: no cookie holds more than 4096."""

_WORDMARK, _STYLE = (
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("wordmark.svg", "login.css")
)


def current_user() -> str:
    """The user of the page that is drawn; empty on a server without logins."""
    return (
        LOCAL if serving_rules() is None else unquote(st.context.headers[USER_HEADER])
    )


def draw_user() -> None:
    """Draw the user's name and the log-out; nothing on a server without logins."""
    rules = serving_rules()
    if rules is None:
        return
    with st.container(
        horizontal=True,
        horizontal_alignment="right",
        vertical_alignment="center",
        key="visitor",
    ):
        st.html(
            element("p", escape(current_user()), css="sd-muted sd-small"),
            width="content",
        )
        if rules.login == "oidc":
            st.button(
                "Log out",
                key="log-out",
                type="tertiary",
                icon=":material/logout:",
                on_click=st.logout,
            )


def private_media_type(kind: str) -> str:
    """The media type of a download, marked for the current user, as its address is."""
    return (
        kind if serving_rules() is None else f"{kind}; {_MARK}={_mark(current_user())}"
    )


def unmarked_media_type(media_type: str, user: str) -> tuple[str, bool]:
    """The media type without the mark of a user, and whether this user may have the download."""
    kind, _, mark = media_type.partition(f"; {_MARK}=")
    return kind, not mark or hmac.compare_digest(mark.partition(";")[0], _mark(user))


def _mark(user: str) -> str:
    return hmac.new(_SECRET, user.encode(), hashlib.sha256).hexdigest()[:32]


def authenticated_user(connection: HTTPConnection, rules: Serving) -> str | None:
    """The name of the user who has logged in; None where nobody has."""
    find_name = _by_header if rules.login == "header" else _by_cookie
    name = find_name(connection, rules)
    return None if name is None else user_name(name)


def _by_header(connection: HTTPConnection, rules: Serving) -> str | None:
    peer = connection.client.host if connection.client else ""
    names = connection.headers.getlist(rules.header.name)
    # Of two, one would be the proxy's and one the browser's own.
    if peer not in rules.header.proxies or len(names) != 1:
        return None
    try:
        return names[0].encode("latin-1").decode()
    except UnicodeDecodeError:
        return None


def _by_cookie(connection: HTTPConnection, rules: Serving) -> str | None:
    """The claim of a login, from the cookie that Streamlit signs."""
    secret = get_cookie_secret()

    def signed(name: str) -> bytes | None:
        value = connection.cookies.get(name)
        return (
            None
            if value is None
            else decode_signed_value(secret, name, value.encode("latin-1"))
        )

    try:
        user = json.loads(get_cookie_with_chunks(signed, USER_COOKIE_NAME) or "{}")
    except (ValueError, TypeError):
        return None
    expected = {
        "is_logged_in": True,
        "origin": rules.origin,
        "provider": rules.oidc.provider,
    }
    if not isinstance(user, dict) or not expected.items() <= user.items():
        return None
    # Some providers say it as a string.
    if (
        rules.oidc.claim == "email"
        and str(user.get("email_verified")).lower() == "false"
    ):
        return None
    name = user.get(rules.oidc.claim)
    return name if isinstance(name, str) else None


def redirect_to_provider(rules: Serving) -> Response:
    """Redirect to the login provider, by Streamlit's route for it."""
    return RedirectResponse(
        f"/auth/login?provider={encode_provider_token(rules.oidc.provider)}",
        status_code=302,
    )


def login_page(rules: Serving, wanted: str) -> Response:
    """The page that asks for a login. wanted: the address to return to afterwards."""
    if rules.login == "header":
        text = "The proxy before this dashboard has sent no user name. Ask its administrator."
        return _page("You are not logged in.", text, status=401)
    text = "Log in to see your runs. You return to the page that you asked for."
    response = _page("Please log in.", text, (LOGIN_PATH, "Log in"), status=401)
    if len(wanted) <= _LONGEST_WANTED:
        secure = rules.origin.startswith("https:")
        response.set_cookie(
            _WANTED,
            wanted,
            max_age=_WANTED_S,
            httponly=True,
            samesite="lax",
            secure=secure,
        )
    return response


def no_access_page(rules: Serving, user: str) -> Response:
    """The page for a user who has logged in and is not on the list."""
    text = (
        f"You are logged in as {user}, who has no access here. Ask the administrator."
    )
    link = ("/auth/logout", "Log out") if rules.login == "oidc" else None
    return _page("You have no access.", text, link, status=403)


def redirect_after_login(connection: HTTPConnection) -> Response | None:
    """Redirect to the address asked for before the login; None where there was none."""
    wanted = connection.cookies.get(_WANTED, "")
    # Two slashes, or one of the other kind, would lead to another host.
    if (
        connection.url.path != "/"
        or not wanted.startswith("/")
        or wanted[1:2] in ("/", "\\")
    ):
        return None
    response = RedirectResponse(wanted, status_code=302)
    response.delete_cookie(_WANTED)
    return response


def _page(
    title: str, text: str, link: tuple[str, str] | None = None, *, status: int
) -> HTMLResponse:
    """A page of its own: without a login nothing of the dashboard is sent."""
    shown = "" if link is None else element("a", escape(link[1]), href=link[0])
    body = f"{_WORDMARK}<h1>{escape(title)}</h1><p>{escape(text)}</p>{shown}"
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · SparseDash</title><style>{_STYLE}</style></head><body><main>{body}</main></body>"
        "</html>",
        status_code=status,
        headers={"Cache-Control": "no-store"},
    )
