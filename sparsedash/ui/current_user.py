"""The user who looks at a page: name, log-out, and downloads that only this user may fetch."""

import hashlib
import hmac
import secrets
from urllib.parse import quote, unquote

import streamlit as st

from sparsedash.reporting.html import element, escape
from sparsedash.storage.users import LOCAL, serving_rules

USER_HEADER = "x-sparsedash-visitor"
"""Set by the border alone: what a browser sends under this name is dropped."""

_FOR = "sparsedash-for"
_SECRET = secrets.token_bytes(32)


def user_header(visitor: str) -> bytes:
    """The visitor's name as a header can carry it."""
    return quote(visitor).encode("ascii")


def current_user() -> str:
    """The name of whoever looks at the page that is drawn; empty where nobody else is served."""
    return LOCAL if serving_rules() is None else unquote(st.context.headers[USER_HEADER])


def draw_user() -> None:
    """Draw who is logged in, and the way out; nothing while nobody else is served."""
    rules = serving_rules()
    if rules is None:
        return
    with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", key="visitor"):
        st.html(element("p", escape(current_user()), css="sd-muted sd-small"), width="content")
        if rules.login == "oidc":
            st.button("Log out", key="log-out", type="tertiary", icon=":material/logout:", on_click=st.logout)


def private_media_type(kind: str) -> str:
    """The media type of a download that only this visitor may fetch. Streamlit makes the address of it, too."""
    return kind if serving_rules() is None else f"{kind}; {_FOR}={_mark(current_user())}"


def split_media_type(media_type: str) -> tuple[str, str]:
    """The media type without the mark of a visitor, and the mark; empty where it has none."""
    kind, _, mark = media_type.partition(f"; {_FOR}=")
    return kind, mark.partition(";")[0]


def may_download(mark: str, visitor: str) -> bool:
    """Whether the mark of a download is this visitor's."""
    return hmac.compare_digest(mark, _mark(visitor))


def _mark(visitor: str) -> str:
    return hmac.new(_SECRET, visitor.encode(), hashlib.sha256).hexdigest()[:32]
