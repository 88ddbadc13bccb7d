"""The login: who sent a request, by proxy header or signed cookie, and the login page."""

import json
from html import escape
from pathlib import Path

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from streamlit.auth_util import encode_provider_token, get_cookie_with_chunks
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from sparsedash.storage.users import Serving, visitor_name

LOGIN_PATH = "/login"
"""Where one is sent to the provider of logins."""

LOGIN_ROUTES = (LOGIN_PATH, "/auth/login", "/auth/logout", "/oauth2callback")
"""What the login itself is made of; the only paths, beside the health in one word, that ask for none."""

_WANTED = "sparsedash_wanted"
_WANTED_S = 600
_LONGEST = 3000
"""Of an address that is gone back to after the login: no cookie holds more than 4096."""

_WORDMARK = Path(__file__).with_name("wordmark.svg")
_STYLE = """
:root { color-scheme: light dark; --ground: #FCFBF8; --ink: #22262B; --line: #D8D4C8; --on: #FCFBF8; --key: #3A4250; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17191C; --ink: #E8E6E1; --line: #3A3E44; --on: #FFFFFF; --key: #66758F; }
}
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
main { box-sizing: border-box; width: min(28rem, 100vw); padding: 2rem; }
svg { height: 1.75rem; width: auto; margin-bottom: 2rem; }
h1 { font: 500 1.75rem/1.25 Georgia, serif; margin: 0 0 0.75rem; }
p { margin: 0 0 1.5rem; overflow-wrap: anywhere; }
a { display: inline-block; padding: 0.6rem 1.25rem; border-radius: 0.375rem; background: var(--key); color: var(--on);
  text-decoration: none; }
a:focus-visible { outline: 3px solid var(--ink); outline-offset: 2px; }
"""


def authenticated_user(connection: HTTPConnection, rules: Serving) -> str | None:
    """The name of whoever has logged in; None where nobody has."""
    said = _by_header(connection, rules) if rules.login == "header" else _by_cookie(connection, rules)
    return None if said is None else visitor_name(said)


def redirect_to_provider(rules: Serving) -> Response:
    """Send the browser to the provider of logins, by the route that Streamlit has for that."""
    token = encode_provider_token(rules.oidc.provider)
    return RedirectResponse(f"/auth/login?provider={token}", status_code=302)


def login_page(rules: Serving, wanted: str) -> Response:
    """The page that says that one has to log in. wanted: the address that is gone back to afterwards."""
    if rules.login == "header":
        text = "This dashboard is reached through a proxy that says who you are, and it has not. Ask whoever runs it."
        return _page("Nobody is logged in.", text, status=401)
    text = "This dashboard shows everybody their own runs. Log in, and you are led to the page that you asked for."
    answer = _page("Please log in.", text, (LOGIN_PATH, "Log in"), status=401)
    if len(wanted) <= _LONGEST:
        secure = rules.origin.startswith("https:")
        answer.set_cookie(_WANTED, wanted, max_age=_WANTED_S, httponly=True, samesite="lax", secure=secure)
    return answer


def no_access_page(rules: Serving, visitor: str) -> Response:
    """The page for who has logged in and is not among those who may come in."""
    text = f"You are logged in as {visitor}, who is not among those that may come in here. Ask whoever runs it."
    link = ("/auth/logout", "Log out") if rules.login == "oidc" else None
    return _page("This is not open to you.", text, link, status=403)


def redirect_after_login(connection: HTTPConnection) -> Response | None:
    """Lead on to the address that was asked for before the login; None where there was none."""
    wanted = connection.cookies.get(_WANTED, "")
    # Two slashes, or one of the other kind, would lead to another host.
    if connection.url.path != "/" or not wanted.startswith("/") or wanted[1:2] in ("/", "\\"):
        return None
    answer = RedirectResponse(wanted, status_code=302)
    answer.delete_cookie(_WANTED)
    return answer


def _by_header(connection: HTTPConnection, rules: Serving) -> str | None:
    peer = connection.client.host if connection.client else ""
    said = connection.headers.getlist(rules.header.name)
    # Two would be one of the proxy's and one of the visitor's own.
    if peer not in rules.header.proxies or len(said) != 1:
        return None
    try:
        return said[0].encode("latin-1").decode()
    except UnicodeDecodeError:
        return None


def _by_cookie(connection: HTTPConnection, rules: Serving) -> str | None:
    """The claim of a login, as Streamlit keeps it in a cookie that it has signed."""
    secret = get_cookie_secret()

    def signed(name: str) -> bytes | None:
        value = connection.cookies.get(name)
        return None if value is None else decode_signed_value(secret, name, value.encode("latin-1"))

    try:
        kept = get_cookie_with_chunks(signed, USER_COOKIE_NAME)
        user = json.loads(kept) if kept else {}
    except (ValueError, TypeError):
        return None
    if not isinstance(user, dict) or user.get("is_logged_in") is not True or user.get("origin") != rules.origin:
        return None
    if user.get("provider") != rules.oidc.provider or (
        rules.oidc.claim == "email" and user.get("email_verified") is False
    ):
        return None
    said = user.get(rules.oidc.claim)
    return said if isinstance(said, str) else None


def _page(title: str, text: str, link: tuple[str, str] | None = None, *, status: int) -> HTMLResponse:
    """A page of its own, since who is not let in is sent nothing of the dashboard."""
    shown = "" if link is None else f'<a href="{escape(link[0])}">{escape(link[1])}</a>'
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · SparseDash</title><style>{_STYLE}</style></head><body><main>"
        f"{_WORDMARK.read_text(encoding='utf-8')}<h1>{escape(title)}</h1><p>{escape(text)}</p>{shown}</main></body></html>",
        status_code=status,
        headers={"Cache-Control": "no-store"},
    )
